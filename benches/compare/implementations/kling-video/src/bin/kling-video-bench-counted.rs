harness::counted_main!(kling_video_bench::KlingVideo);
