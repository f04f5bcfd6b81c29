//! A binary of its own, so that counting does not slow down the one whose instructions are counted.

#[global_allocator]
static ALLOCATOR: jobs::memory::CountingAllocator = jobs::memory::CountingAllocator;

fn main() -> std::process::ExitCode {
    jobs::main::<jobs::kling::KlingVideo>()
}
