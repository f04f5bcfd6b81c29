harness::main!(raw::Raw<raw::Scalar>);
