harness::counted_main!(ours::Ours);
