harness::counted_main!(raw::Raw<raw::Simd>);
