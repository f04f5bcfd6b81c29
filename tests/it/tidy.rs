//! Rules of the source tree that neither the compiler nor Clippy checks.

use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn modules_import_only_from_their_own_layer_and_lower_ones() {
    let files = files();
    for (root, dir, prefix) in [("lib.rs", "", "crate::"), ("sandbox.rs", "sandbox/", "super::")] {
        let (layers, exports) = (layers(&files[root]), exports(&files[root]));
        let layer_of = |module| layers.iter().position(|layer| layer.contains(&module));
        for (name, code) in files.iter().filter(|(name, _)| *name != root) {
            let Some(own) = name.strip_prefix(dir).map(top_module) else { continue };
            for word in paths_after(prefix, code) {
                let module = exports.get(word).copied().unwrap_or(word);
                assert!(layer_of(module) <= layer_of(own), "{name} imports {module}");
            }
        }
    }
}

#[test]
fn sandbox_imports_only_public_items() {
    let files = files();
    let public = exports(&files["lib.rs"]);
    for (name, code) in files.iter().filter(|(name, _)| top_module(name) == "sandbox") {
        let mut imports = paths_after("crate::", code);
        assert_eq!(imports.find(|import| !public.contains_key(import)), None, "{name}");
    }
}

#[test]
fn http_library_is_used_only_by_the_transport() {
    for (name, code) in files().iter().filter(|(name, _)| top_module(name) != "transport") {
        assert!(words(code).all(|word| word != "ureq"), "{name} uses ureq");
    }
}

#[test]
fn library_code_silences_no_clippy_lint() {
    let silencing = files().into_iter().find(|(_, code)| code.contains("clippy::"));
    assert_eq!(silencing.map(|(name, _)| name), None);
}

#[test]
fn changelog_starts_with_unreleased_changes_or_this_version() {
    let text = include_str!("../../CHANGELOG.md");
    let latest = text.split("\n## [").nth(1).and_then(|part| part.split(']').next());
    assert!([Some("Unreleased"), Some(env!("CARGO_PKG_VERSION"))].contains(&latest), "{latest:?}");
}

/// The Rust files by their path in `src`, without comments and unit tests. Each has module docs.
fn files() -> BTreeMap<String, String> {
    let src = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let (mut files, mut dirs) = (BTreeMap::new(), vec![src.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.strip_prefix(src).unwrap().to_str().unwrap().replace('\\', "/");
            if path.is_dir() {
                dirs.push(path);
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(path).unwrap();
                assert!(text.starts_with("//! "), "{name} does not start with a `//!` line");
                let code = text.split("#[cfg(test)]\nmod tests").next().unwrap().lines();
                let code: Vec<_> = code.map(|line| line.split("//").next().unwrap()).collect();
                files.insert(name, code.join("\n"));
            }
        }
    }
    files
}

fn top_module(path: &str) -> &str {
    path.split(['/', '.', ':']).next().unwrap()
}

/// The modules that a file declares, in layers separated by empty lines, the lowest first.
fn layers(code: &str) -> Vec<Vec<&str>> {
    let module = |line| <str>::split_once(line, "mod ")?.1.strip_suffix(';');
    code.split("\n\n").map(|layer| layer.lines().filter_map(module).collect()).collect()
}

/// The names that a file exports, each with the module that it comes from.
fn exports(code: &str) -> BTreeMap<&str, &str> {
    let items = code.split("\npub use ").skip(1).filter_map(|rest| rest.split(';').next());
    items.flat_map(|item| words(item).skip(1).zip(std::iter::repeat(top_module(item)))).collect()
}

/// The words after each prefix: the next one, or all in the braces of a `use`.
fn paths_after<'a>(prefix: &'a str, code: &'a str) -> impl Iterator<Item = &'a str> {
    code.split(prefix).skip(1).flat_map(|rest| {
        let count = if rest.starts_with('{') { usize::MAX } else { 1 };
        words(rest.split(';').next().unwrap()).take(count)
    })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}
