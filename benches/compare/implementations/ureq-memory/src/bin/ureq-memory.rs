harness::main!(ureq_memory::UreqInMemory);
