harness::main!(ours::Ours);
