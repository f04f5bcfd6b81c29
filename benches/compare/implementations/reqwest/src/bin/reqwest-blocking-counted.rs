harness::counted_main!(reqwest_blocking::Reqwest);
