harness::main!(socket::Socket<socket::Simd>);
