harness::main!(reqwest_blocking::Reqwest);
