#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kling_video::fuzzing::api_error(data));
