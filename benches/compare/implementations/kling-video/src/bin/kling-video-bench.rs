harness::main!(kling_video_bench::KlingVideo);
