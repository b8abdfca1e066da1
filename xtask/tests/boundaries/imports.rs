//! Which module of a crate names which other one, read from its sources.
//!
//! Left out: what macros expand to, and tests: modules behind `#[cfg(test)]`, files called `tests.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use support::sources::texts;
use syn::{
    Attribute, ItemMod, ItemUse, Macro, Meta, UseTree,
    visit::{self, Visit},
};

/// A module's path from the crate's root; the root's own is empty.
type Module = Vec<String>;

/// Modules and the modules that they name.
pub(crate) type Imports = BTreeMap<Module, BTreeSet<Module>>;

/// The imports of the crate whose sources are below a folder.
pub(crate) fn of(sources: &Path) -> Imports {
    let files: BTreeMap<Module, String> = texts(sources, "rs")
        .into_iter()
        .filter_map(|(path, text)| Some((module(sources, &path)?, text)))
        .collect();
    let known: BTreeSet<Module> = files.keys().cloned().collect();
    files
        .iter()
        .map(|(module, text)| (module.clone(), named(module, text, &known)))
        .collect()
}

/// Modules that name one another in a circle, side by side: a module counts as one with what is below it, and naming a
/// parent or a child is no circle.
pub(crate) fn circles(imports: &Imports) -> Vec<String> {
    let mut siblings: BTreeMap<Module, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (from, names) in imports {
        for to in names {
            let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
            if let (Some(one), Some(other)) = (from.get(common), to.get(common)) {
                let level = siblings.entry(from[..common].to_vec()).or_default();
                level.entry(one.clone()).or_default().insert(other.clone());
            }
        }
    }
    let mut circles = Vec::new();
    for (parent, edges) in &siblings {
        for start in edges.keys() {
            if reaches(edges, start, start) {
                let back = |next: &&String| *next == start || reaches(edges, next, start);
                let next: Vec<&str> = edges[start]
                    .iter()
                    .filter(back)
                    .map(String::as_str)
                    .collect();
                circles.push(format!("{}{start} → {}", place(parent), next.join(", ")));
            }
        }
    }
    circles
}

fn place(parent: &[String]) -> String {
    parent.iter().map(|name| format!("{name}::")).collect()
}

fn reaches(edges: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        for next in edges.get(module).into_iter().flatten() {
            if next == to {
                return true;
            }
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
    false
}

/// `None` for tests.
fn module(sources: &Path, file: &Path) -> Option<Module> {
    let relative: PathBuf = file.strip_prefix(sources).ok()?.with_extension("");
    let mut module: Module = relative
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if module.iter().any(|part| part == "tests") {
        return None;
    }
    if matches!(
        module.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        module.pop();
    }
    Some(module)
}

fn named(module: &Module, text: &str, known: &BTreeSet<Module>) -> BTreeSet<Module> {
    let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{module:?}: {error}"));
    let mut reader = Reader {
        inside: module.clone(),
        paths: Vec::new(),
    };
    reader.visit_file(&file);
    let longest_known = |path: Vec<String>| {
        (1..=path.len())
            .rev()
            .map(|length| path[..length].to_vec())
            .find(|module| known.contains(module))
    };
    let mut named: BTreeSet<Module> = reader.paths.into_iter().filter_map(longest_known).collect();
    named.remove(module);
    named
}

struct Reader {
    /// Where the reader is: the file's module, and inline ones in it.
    inside: Module,
    /// What was named, from the crate's root.
    paths: Vec<Vec<String>>,
}

impl Reader {
    /// Notes a path that begins with `crate`, `self` or `super`; others lead below this module, or to another crate.
    fn note(&mut self, path: &[String]) {
        let mut base = match path.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.inside.clone(),
            _ => return,
        };
        for part in path {
            match part.as_str() {
                "crate" | "self" => {}
                "super" => {
                    base.pop();
                }
                name => base.push(name.to_owned()),
            }
        }
        self.paths.push(base);
    }

    /// Notes every path in what is no syntax tree.
    fn note_words(&mut self, tokens: &str) {
        let tokens = tokens.replace(' ', "");
        for start in ["crate::", "super::"] {
            for (at, _) in tokens.match_indices(start) {
                let path: Vec<String> = tokens[at..]
                    .split("::")
                    .map_while(|part| {
                        let end = part.find(|c: char| !c.is_alphanumeric() && c != '_');
                        let word = &part[..end.unwrap_or(part.len())];
                        (!word.is_empty()).then(|| word.to_owned())
                    })
                    .collect();
                self.note(&path);
            }
        }
    }

    fn note_tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.note_tree(&with(&path.ident), &path.tree),
            UseTree::Name(name) => self.note(&with(&name.ident)),
            UseTree::Rename(rename) => self.note(&with(&rename.ident)),
            UseTree::Glob(_) => self.note(before),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.note_tree(before, tree);
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if is_for_tests(&item.attrs) {
            return;
        }
        self.inside.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.inside.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !is_for_tests(&item.attrs) {
            self.note_tree(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let path_text: Vec<String> = path
            .segments
            .iter()
            .map(|part| part.ident.to_string())
            .collect();
        self.note(&path_text);
        visit::visit_path(self, path);
    }

    /// What is given to a macro is no syntax tree: its words are looked through for paths.
    fn visit_macro(&mut self, called: &'ast Macro) {
        self.note_words(&called.tokens.to_string());
    }

    /// Likewise what an attribute is given, text among it: `with = "crate::…"`.
    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.note_words(&list.tokens.to_string());
        }
    }
}

/// Whether an item is there in tests alone.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}
