//! Everything that an error displays.

use kling_video::Error;

/// The messages of an error and of all its sources.
pub fn error_chain(error: &dyn std::error::Error) -> Vec<String> {
    sources(error).map(|error| error.to_string()).collect()
}

/// The messages of an error and of all its sources, in one line.
pub fn full_message(error: &Error) -> String {
    error_chain(error).join(": ")
}

/// Everything that can be printed of an error, its sources and its details.
pub fn full_error_output(error: &Error) -> String {
    let mut output: String =
        sources(error).map(|error| format!("{error}\n{error:?}\n{error:#?}\n")).collect();
    output += &format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?}\n",
        error.generation_id(),
        error.client_request_id(),
        error.server_message(),
        error.request_id(),
        error.field(),
        error.body(),
        error.retry_after(),
    );
    if let Some(generation) = error.generation() {
        output += &format!("{generation:?}\n{generation:#?}\n");
    }
    output
}

fn sources<'a>(
    error: &'a (dyn std::error::Error + 'a),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'a)> {
    std::iter::successors(Some(error), |error| error.source())
}
