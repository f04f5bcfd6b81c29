//! The code of the guide that needs other crates is the code of these recipes.

use std::fs;

#[test]
fn guide_shows_the_recipes_as_they_are() {
    let guide = fs::read_to_string("../../src/lib.rs").unwrap();
    let recipes: String = fs::read_dir("src")
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut blocks = 0;
    for block in guide.split("//! ```ignore\n").skip(1) {
        let (block, _) = block.split_once("//! ```\n").unwrap();
        let strip = |line: &str| line.trim_start_matches("//!").replacen(' ', "", 1) + "\n";
        let block: String = block.lines().map(strip).collect();
        for part in block.split("\n\n") {
            assert!(recipes.contains(part.trim_end()), "no recipe contains:\n{part}");
        }
        blocks += 1;
    }
    assert_eq!(blocks, 4);
}
