harness::counted_main!(socket::Socket<socket::Simd>);
