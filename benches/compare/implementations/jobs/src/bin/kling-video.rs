fn main() -> std::process::ExitCode {
    jobs::main::<jobs::kling::KlingVideo>()
}
