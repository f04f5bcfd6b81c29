harness::counted_main!(ureq_memory::UreqInMemory);
