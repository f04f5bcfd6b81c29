//! Prints the public API in a rustdoc JSON file, one item a line. Of derived trait implementations
//! the methods are left out, and the traits that the compiler implements automatically altogether.

use std::collections::HashSet;
use std::error::Error;

use public_api::{Builder, PublicApi};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: print-public-api JSON")?;
    let read = |without_derived| -> Result<PublicApi, public_api::Error> {
        Builder::from_rustdoc_json(&path)
            .omit_blanket_impls(true)
            .omit_auto_trait_impls(true)
            .omit_auto_derived_impls(without_derived)
            .build()
    };
    let without_derived: HashSet<_> = read(true)?.items().map(ToString::to_string).collect();
    for item in read(false)?.items().map(ToString::to_string) {
        if item.starts_with("impl") || without_derived.contains(&item) {
            println!("{item}");
        }
    }
    Ok(())
}
