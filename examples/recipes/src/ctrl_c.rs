//! Ctrl-C ends a call, with `ctrlc`.

use kling_video::CancelToken;

/// Returns a token that Ctrl-C cancels: the call then ends with `ErrorKind::Cancelled`, and the
/// next run continues. A second Ctrl-C does not wait for that.
pub fn cancelled_by_ctrl_c() -> Result<CancelToken, ctrlc::Error> {
    let token = CancelToken::new();
    let on_ctrl_c = token.clone();
    ctrlc::set_handler(move || match on_ctrl_c.is_cancelled() {
        false => on_ctrl_c.cancel(),
        true => std::process::exit(130),
    })?;
    Ok(token)
}
