harness::counted_main!(ureq_streaming::UreqStreaming);
