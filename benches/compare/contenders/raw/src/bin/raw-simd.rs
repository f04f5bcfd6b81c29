harness::main!(raw::Raw<raw::Simd>);
