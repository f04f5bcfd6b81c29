harness::main!(socket::Socket<socket::Scalar>);
