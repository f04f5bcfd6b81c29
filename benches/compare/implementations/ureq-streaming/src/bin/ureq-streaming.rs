harness::main!(ureq_streaming::UreqStreaming);
