//! What a reviewer would have to look for in every change: the layers of `src`, who may name the
//! HTTP library, what cannot panic, docs and changelog.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn a_module_imports_only_from_its_own_group_and_the_ones_before() {
    let tree = Tree::read();
    let mut wrong = Vec::new();
    for file in tree.shipped() {
        for import in tree.imports(file) {
            let (from, to) = (tree.group_of(&file.module), tree.group_of(&import));
            if to > from {
                wrong.push(format!("{} imports {import}", file.name));
            }
        }
    }
    assert!(wrong.is_empty(), "against the order in src/lib.rs: {wrong:#?}");
}

#[test]
fn no_module_imports_itself_by_way_of_others() {
    let tree = Tree::read();
    let mut imports = BTreeMap::<_, BTreeSet<_>>::new();
    for file in tree.shipped() {
        let of_module = imports.entry(file.module.clone()).or_default();
        of_module.extend(tree.imports(file).into_iter().filter(|import| *import != file.module));
    }
    // Those that import nothing are taken away, until none is left or all that are left do.
    while !imports.is_empty() {
        let left: BTreeSet<_> = imports.keys().cloned().collect();
        imports.retain(|_, imports| imports.iter().any(|import| left.contains(import)));
        assert!(imports.len() < left.len(), "in or above a circle: {imports:#?}");
    }
}

#[test]
fn the_sandbox_uses_the_crate_as_its_users_do_and_has_an_order_of_its_own() {
    let tree = Tree::read();
    let of_sandbox = || tree.shipped().filter(|file| file.module == "sandbox");
    for file in of_sandbox() {
        for name in names_after("crate::", &file.code) {
            assert!(tree.public.contains_key(&name), "{} uses crate::{name}", file.name);
        }
    }

    let text = fs::read_to_string(root().join("src/sandbox.rs")).unwrap();
    let comment = text.split("only from those after it in:").nth(1).expect("the order, in words");
    let order = comment.split('.').next().unwrap().replace("//", "");
    let order: Vec<_> = order.split(',').map(str::trim).collect();
    let place = |name: &str| order.iter().position(|other| *other == name);
    for file in of_sandbox().filter(|file| file.name.contains('/')) {
        let own = file.name.trim_start_matches("sandbox/").trim_end_matches(".rs");
        let own = place(own).unwrap_or_else(|| panic!("{} has no place in the order", file.name));
        for import in names_after("super::", &file.code) {
            assert!(place(&import) > Some(own), "{} imports {import}", file.name);
        }
    }
}

#[test]
fn only_the_transport_names_the_http_library() {
    for file in Tree::read().files.iter().filter(|file| file.module != "transport") {
        assert!(!words(&file.code).any(|word| word == "ureq"), "{} names ureq", file.name);
    }
}

/// Beside clippy, which a line in the code can silence.
#[test]
fn what_is_shipped_does_not_panic_on_purpose() {
    const PANICS: [&str; 8] = [
        ".unwrap()",
        ".unwrap_err()",
        ".expect(",
        ".expect_err(",
        "panic!",
        "unreachable!",
        "todo!",
        "unimplemented!",
    ];
    const SILENCED: [&str; 7] = [
        "unwrap_used",
        "expect_used",
        "panic",
        "unreachable",
        "todo",
        "unimplemented",
        "indexing_slicing",
    ];
    let mut found = Vec::new();
    for file in Tree::read().shipped() {
        for line in file.code.lines() {
            let silenced = |lint: &&str| line.contains(&format!("clippy::{lint}"));
            if PANICS.iter().any(|word| line.contains(word)) || SILENCED.iter().any(silenced) {
                found.push(format!("{}: {}", file.name, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_file_says_what_belongs_there() {
    for (name, text) in sources() {
        assert!(text.starts_with("//! "), "{name} begins without a line of `//!`");
    }
}

/// The form of Keep a Changelog: what is not released, then the releases, the last one first, which
/// is the version in Cargo.toml.
#[test]
fn the_changelog_goes_with_the_version() {
    let text = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    assert!(text.starts_with("# Changelog\n"));
    let mut headings = text.lines().filter_map(|line| line.strip_prefix("## ")).peekable();
    let unreleased = headings.next_if_eq(&"[Unreleased]").is_some();
    match headings.peek() {
        None => assert!(unreleased, "neither a release nor [Unreleased]"),
        Some(last) => {
            let version = format!("[{}] - ", env!("CARGO_PKG_VERSION"));
            assert!(last.starts_with(&version), "Cargo.toml has {version}, the changelog: {last}");
        }
    }
    for release in headings {
        let date = release.split_once("] - ").map(|(_, date)| date).unwrap_or_default();
        let form = date.replace(|c: char| c.is_ascii_digit(), "0");
        assert!(
            release.starts_with('[') && form == "0000-00-00",
            "not [version] - date: {release}"
        );
    }
    for kind in text.lines().filter_map(|line| line.strip_prefix("### ")) {
        let kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
        assert!(kinds.contains(&kind), "no kind of change: {kind}");
    }
}

// ---------------------------------------------------------------- how the source is read

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under `src`, by its path from there.
fn sources() -> BTreeMap<String, String> {
    let src = root().join("src");
    let mut folders: Vec<PathBuf> = vec![src.clone()];
    let mut sources = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&src).unwrap().components();
                let name: Vec<_> = name.map(|part| part.as_os_str().to_str().unwrap()).collect();
                sources.insert(name.join("/"), fs::read_to_string(&path).unwrap());
            }
        }
    }
    sources
}

struct Tree {
    files: Vec<Source>,
    /// The modules in the groups of lib.rs, from below to above.
    groups: Vec<Vec<String>>,
    /// The modules that are compiled for tests only.
    for_tests: BTreeSet<String>,
    /// What stands at the crate's root, and the module that it is from.
    public: BTreeMap<String, String>,
}

struct Source {
    /// The path from `src`.
    name: String,
    /// The one of lib.rs that it belongs to.
    module: String,
    /// Without comments, and without what is compiled for tests only.
    code: String,
}

impl Tree {
    fn read() -> Self {
        let sources = sources();
        let lib = &sources["lib.rs"];
        let mut tree = Tree {
            files: Vec::new(),
            groups: Vec::new(),
            for_tests: BTreeSet::new(),
            public: BTreeMap::new(),
        };
        for paragraph in lib.split("\n\n") {
            let mut group = Vec::new();
            let mut is_for_tests = false;
            for line in paragraph.lines() {
                is_for_tests |= is_cfg_test(line);
                let line = line.strip_prefix("pub ").unwrap_or(line);
                if let Some(module) = line.strip_prefix("mod ").and_then(|m| m.strip_suffix(';')) {
                    group.push(module.to_owned());
                    if std::mem::take(&mut is_for_tests) {
                        tree.for_tests.insert(module.to_owned());
                    }
                }
            }
            if !group.is_empty() {
                tree.groups.push(group);
            }
        }
        for item in lib.split("pub use ").skip(1).filter_map(|rest| rest.split(';').next()) {
            let (module, names) = item.split_once("::").unwrap();
            for name in words(names) {
                tree.public.insert(name.to_owned(), module.to_owned());
            }
        }
        for (name, text) in sources.iter().filter(|(name, _)| *name != "lib.rs") {
            let module = name.trim_end_matches(".rs").split('/').next().unwrap().to_owned();
            assert!(tree.groups.iter().flatten().any(|m| *m == module), "lib.rs lacks {module}");
            tree.files.push(Source { name: name.clone(), module, code: code(text) });
        }
        assert!(tree.groups.len() > 5 && tree.files.len() > 30 && tree.public.len() > 20);
        tree
    }

    fn shipped(&self) -> impl Iterator<Item = &Source> {
        self.files.iter().filter(|file| !self.for_tests.contains(&file.module))
    }

    fn group_of(&self, module: &str) -> usize {
        let group = self.groups.iter().position(|group| group.iter().any(|m| m == module));
        group.unwrap_or_else(|| panic!("no module {module}"))
    }

    /// The modules of lib.rs that a file's code names, its own perhaps among them.
    fn imports(&self, file: &Source) -> BTreeSet<String> {
        let mut names = names_after("crate::", &file.code);
        if !file.name.contains('/') {
            names.extend(names_after("super::", &file.code));
        }
        let module = |name: String| self.public.get(&name).cloned().unwrap_or(name);
        names.into_iter().map(module).collect()
    }
}

fn is_cfg_test(line: &str) -> bool {
    ["#[cfg(test)]", "#[cfg(any(fuzzing, test))]"].contains(&line.trim_start())
}

/// A formatted file without its comments and without the items that are for tests only.
fn code(text: &str) -> String {
    let mut lines = text.lines();
    let mut code = String::new();
    while let Some(line) = lines.next() {
        if is_cfg_test(line) {
            let end = format!("{}}}", " ".repeat(line.len() - line.trim_start().len()));
            let head = lines.by_ref().find(|line| !line.trim_start().starts_with("#["));
            if !head.is_some_and(|head| head.ends_with(';')) {
                let _ = lines.by_ref().find(|line| *line == end);
            }
            continue;
        }
        code.push_str(line.split("//").next().unwrap_or_default());
        code.push('\n');
    }
    code
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The first names after `crate::` or `super::`, of which one `use` can have many, in braces.
fn names_after(prefix: &str, code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for rest in code.split(prefix).skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            names.extend(words(rest).next().map(str::to_owned));
            continue;
        };
        let mut depth = 0;
        let mut part = String::new();
        for c in list.chars() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => part.push('\n'),
                _ => {}
            }
            part.push(c);
        }
        names.extend(part.lines().filter_map(|part| words(part).next()).map(str::to_owned));
    }
    names
}
