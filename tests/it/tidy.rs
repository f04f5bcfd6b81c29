//! Rules that a reviewer would otherwise have to check in every change: the layers of `src`, use of
//! the HTTP library, panics, module docs and the changelog.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn module_imports_only_from_its_own_and_earlier_groups() {
    let tree = Tree::read();
    let mut violations = Vec::new();
    for file in tree.library_files() {
        for import in tree.imports(file) {
            let (from, to) = (tree.group_of(&file.module), tree.group_of(&import));
            if to > from {
                violations.push(format!("{} imports {import}", file.name));
            }
        }
    }
    assert!(violations.is_empty(), "imports against the order in src/lib.rs: {violations:#?}");
}

#[test]
fn module_imports_are_acyclic() {
    let tree = Tree::read();
    let mut imports = BTreeMap::<_, BTreeSet<_>>::new();
    for file in tree.library_files() {
        let of_module = imports.entry(file.module.clone()).or_default();
        of_module.extend(tree.imports(file).into_iter().filter(|import| *import != file.module));
    }
    // Modules without remaining imports are removed, until no module is left or none can be.
    while !imports.is_empty() {
        let remaining: BTreeSet<_> = imports.keys().cloned().collect();
        imports.retain(|_, imports| imports.iter().any(|import| remaining.contains(import)));
        assert!(imports.len() < remaining.len(), "import cycle, and its importers: {imports:#?}");
    }
}

#[test]
fn sandbox_uses_only_the_public_api_and_has_ordered_modules() {
    let tree = Tree::read();
    let sandbox_files = || tree.library_files().filter(|file| file.module == "sandbox");
    for file in sandbox_files() {
        for name in names_after("crate::", &file.code) {
            assert!(tree.public.contains_key(&name), "{} uses crate::{name}", file.name);
        }
    }

    let text = fs::read_to_string(root().join("src/sandbox.rs")).unwrap();
    let comment = text.split("only from those listed after it:").nth(1).expect("the module order");
    let order = comment.split('.').next().unwrap().replace("//", "");
    let order: Vec<_> = order.split(',').map(str::trim).collect();
    let position = |name: &str| order.iter().position(|other| *other == name);
    for file in sandbox_files().filter(|file| file.name.contains('/')) {
        let own = file.name.trim_start_matches("sandbox/").trim_end_matches(".rs");
        let own = position(own).unwrap_or_else(|| panic!("{} is not in the order", file.name));
        for import in names_after("super::", &file.code) {
            assert!(position(&import) > Some(own), "{} imports {import}", file.name);
        }
    }
}

#[test]
fn http_library_is_used_only_by_the_transport() {
    for file in Tree::read().files.iter().filter(|file| file.module != "transport") {
        assert!(!identifiers(&file.code).any(|name| name == "ureq"), "{} uses ureq", file.name);
    }
}

/// Clippy checks the same, but an attribute in the code can silence it.
#[test]
fn library_code_does_not_panic_deliberately() {
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
    for file in Tree::read().library_files() {
        for line in file.code.lines() {
            let silenced = |lint: &&str| line.contains(&format!("clippy::{lint}"));
            if PANICS.iter().any(|pattern| line.contains(pattern)) || SILENCED.iter().any(silenced)
            {
                found.push(format!("{}: {}", file.name, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn source_files_start_with_module_docs() {
    for (name, text) in sources() {
        assert!(text.starts_with("//! "), "{name} does not start with a `//!` line");
    }
}

/// The format of Keep a Changelog: unreleased changes, then the releases, latest first. The latest
/// release is the version in Cargo.toml.
#[test]
fn changelog_is_well_formed_and_matches_the_version() {
    let text = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    assert!(text.starts_with("# Changelog\n"));
    let mut headings = text.lines().filter_map(|line| line.strip_prefix("## ")).peekable();
    let unreleased = headings.next_if_eq(&"[Unreleased]").is_some();
    match headings.peek() {
        None => assert!(unreleased, "neither a release nor [Unreleased]"),
        Some(latest) => {
            let version = format!("[{}] - ", env!("CARGO_PKG_VERSION"));
            assert!(latest.starts_with(&version), "Cargo.toml: {version}, changelog: {latest}");
        }
    }
    for release in headings {
        let date = release.split_once("] - ").map(|(_, date)| date).unwrap_or_default();
        let pattern = date.replace(|c: char| c.is_ascii_digit(), "0");
        assert!(
            release.starts_with('[') && pattern == "0000-00-00",
            "heading must be `[version] - date`: {release}"
        );
    }
    for kind in text.lines().filter_map(|line| line.strip_prefix("### ")) {
        let kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
        assert!(kinds.contains(&kind), "unknown kind of change: {kind}");
    }
}

// ---------------------------------------------------------------- reading the source

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The contents of every Rust file under `src`, keyed by relative path.
fn sources() -> BTreeMap<String, String> {
    let src = root().join("src");
    let mut dirs: Vec<PathBuf> = vec![src.clone()];
    let mut sources = BTreeMap::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
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
    /// The module groups of lib.rs, in order: imports only go to earlier ones.
    groups: Vec<Vec<String>>,
    /// The modules that are compiled only for tests.
    test_only: BTreeSet<String>,
    /// The names that the crate root exports, each with the module that defines it.
    public: BTreeMap<String, String>,
}

struct Source {
    /// The path relative to `src`.
    name: String,
    /// The top-level module that the file belongs to.
    module: String,
    /// The code without comments and without test-only items.
    code: String,
}

impl Tree {
    fn read() -> Self {
        let sources = sources();
        let lib = &sources["lib.rs"];
        let mut tree = Tree {
            files: Vec::new(),
            groups: Vec::new(),
            test_only: BTreeSet::new(),
            public: BTreeMap::new(),
        };
        for paragraph in lib.split("\n\n") {
            let mut group = Vec::new();
            let mut is_test_only = false;
            for line in paragraph.lines() {
                is_test_only |= is_cfg_test(line);
                let line = line.strip_prefix("pub ").unwrap_or(line);
                if let Some(module) = line.strip_prefix("mod ").and_then(|m| m.strip_suffix(';')) {
                    group.push(module.to_owned());
                    if std::mem::take(&mut is_test_only) {
                        tree.test_only.insert(module.to_owned());
                    }
                }
            }
            if !group.is_empty() {
                tree.groups.push(group);
            }
        }
        for item in lib.split("pub use ").skip(1).filter_map(|rest| rest.split(';').next()) {
            let (module, names) = item.split_once("::").unwrap();
            for name in identifiers(names) {
                tree.public.insert(name.to_owned(), module.to_owned());
            }
        }
        for (name, text) in sources.iter().filter(|(name, _)| *name != "lib.rs") {
            let module = name.trim_end_matches(".rs").split('/').next().unwrap().to_owned();
            assert!(
                tree.groups.iter().flatten().any(|m| *m == module),
                "lib.rs has no module {module}"
            );
            tree.files.push(Source {
                name: name.clone(),
                module,
                code: strip_comments_and_tests(text),
            });
        }
        assert!(tree.groups.len() > 5 && tree.files.len() > 30 && tree.public.len() > 20);
        tree
    }

    fn library_files(&self) -> impl Iterator<Item = &Source> {
        self.files.iter().filter(|file| !self.test_only.contains(&file.module))
    }

    fn group_of(&self, module: &str) -> usize {
        let group = self.groups.iter().position(|group| group.iter().any(|m| m == module));
        group.unwrap_or_else(|| panic!("no module {module}"))
    }

    /// The top-level modules that a file's code names, possibly including its own.
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

/// The text of a formatted file without comments and test-only items.
fn strip_comments_and_tests(text: &str) -> String {
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

fn identifiers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The first path segment after each `crate::` or `super::`, also in the braces of a `use`.
fn names_after(prefix: &str, code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for rest in code.split(prefix).skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            names.extend(identifiers(rest).next().map(str::to_owned));
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
        names.extend(part.lines().filter_map(|part| identifiers(part).next()).map(str::to_owned));
    }
    names
}
