//! Which module of a crate names which other one, read from its sources. Imports are followed: a name that comes from a
//! glob, or through another module's re-export, is one of the module that has it.
//!
//! Left out: what macros expand to, and tests: modules behind `#[cfg(test)]`, files called `tests.rs`. Scopes are those of
//! modules: a local variable that has the name of something imported by a glob counts as that.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use support::sources::texts;
use syn::{
    Attribute, Item, ItemMod, ItemUse, Macro, Meta, UseTree,
    visit::{self, Visit},
};

/// A module's path from the crate's root; the root's own is empty.
type Module = Vec<String>;

/// Modules and the modules that they name.
pub(crate) type Imports = BTreeMap<Module, BTreeSet<Module>>;

/// The imports of the crate whose sources are below a folder.
pub(crate) fn of(sources: &Path) -> Imports {
    let mut krate = Crate::default();
    let mut files = BTreeSet::new();
    for (path, text) in texts(sources, "rs") {
        if let Some(module) = module(sources, &path) {
            krate.read(&module, &text);
            files.insert(module);
        }
    }
    let file_of = |mut module: Module| {
        while !files.contains(&module) && module.pop().is_some() {}
        module
    };
    let mut imports: Imports = files
        .iter()
        .map(|file| (file.clone(), BTreeSet::new()))
        .collect();
    for (module, path) in &krate.named {
        let mut found = BTreeSet::new();
        krate.follow(module, path, &mut Vec::new(), &mut found);
        let from = file_of(module.clone());
        let to = found.into_iter().map(file_of).filter(|to| *to != from);
        imports.entry(from.clone()).or_default().extend(to);
    }
    imports
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

/// A path as it is written.
type Written = Vec<String>;

/// What a module has names for.
#[derive(Default)]
struct Scope {
    /// What it defines, but for modules.
    items: BTreeSet<String>,
    /// What it imports, by the name that it has here.
    imported: BTreeMap<String, Written>,
    /// What it imports everything of.
    globs: Vec<Written>,
}

#[derive(Default)]
struct Crate {
    /// Of every module, inline ones included.
    scopes: BTreeMap<Module, Scope>,
    /// Every path, with the module that it is in.
    named: Vec<(Module, Written)>,
}

impl Crate {
    fn read(&mut self, module: &Module, text: &str) {
        let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{module:?}: {error}"));
        self.scopes.entry(module.clone()).or_default();
        let mut reader = Reader {
            krate: self,
            inside: module.clone(),
        };
        reader.visit_file(&file);
    }

    /// Adds the modules that a path in this module leads to; returns whether it leads to something of this crate.
    fn follow(
        &self,
        module: &Module,
        path: &[String],
        seen: &mut Vec<(Module, Written)>,
        found: &mut BTreeSet<Module>,
    ) -> bool {
        /// No path is as long, but for an import that goes round in itself.
        const LONGEST: usize = 16;
        let Some((first, rest)) = path.split_first() else {
            return true;
        };
        let step = (module.clone(), path.to_vec());
        if path.len() > LONGEST || seen.contains(&step) {
            return false;
        }
        seen.push(step);
        match first.as_str() {
            "crate" => return self.follow(&Vec::new(), rest, seen, found),
            "self" => return self.follow(module, rest, seen, found),
            "super" => {
                let parent = module[..module.len().saturating_sub(1)].to_vec();
                return self.follow(&parent, rest, seen, found);
            }
            _ => {}
        }
        let child = [module.as_slice(), std::slice::from_ref(first)].concat();
        if self.scopes.contains_key(&child) {
            self.follow(&child, rest, seen, found);
            found.insert(child);
            return true;
        }
        let Some(scope) = self.scopes.get(module) else {
            return false;
        };
        if scope.items.contains(first) {
            return true;
        }
        if let Some(target) = scope.imported.get(first)
            && self.follow(module, &[target.as_slice(), rest].concat(), seen, found)
        {
            return true;
        }
        // All of them: an enum's glob could have any name.
        let mut leads = false;
        for glob in &scope.globs {
            leads |= self.follow(module, &[glob.as_slice(), path].concat(), seen, found);
        }
        leads
    }
}

struct Reader<'a> {
    krate: &'a mut Crate,
    /// Where the reader is: the file's module, and inline ones in it.
    inside: Module,
}

impl Reader<'_> {
    fn scope(&mut self) -> &mut Scope {
        self.krate.scopes.entry(self.inside.clone()).or_default()
    }

    fn note(&mut self, path: Written) {
        self.krate.named.push((self.inside.clone(), path));
    }

    /// Notes every path in what is no syntax tree.
    fn note_words(&mut self, tokens: &str) {
        let tokens = tokens.replace(" ::", "::").replace(":: ", "::");
        for path in tokens.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':') {
            let parts = path.split("::").filter(|part| !part.is_empty());
            let path: Written = parts
                .take_while(|part| !part.contains(':'))
                .map(str::to_owned)
                .collect();
            if !path.is_empty() {
                self.note(path);
            }
        }
    }

    fn note_tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.note_tree(&with(&path.ident), &path.tree),
            UseTree::Name(name) if name.ident == "self" => self.import(before.last(), before),
            UseTree::Name(name) => self.import(Some(&name.ident.to_string()), &with(&name.ident)),
            UseTree::Rename(rename) if rename.ident == "self" => {
                self.import(Some(&rename.rename.to_string()), before);
            }
            UseTree::Rename(rename) => {
                self.import(Some(&rename.rename.to_string()), &with(&rename.ident));
            }
            UseTree::Glob(_) => {
                self.note(before.to_vec());
                self.scope().globs.push(before.to_vec());
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.note_tree(before, tree);
                }
            }
        }
    }

    fn import(&mut self, name: Option<&String>, path: &[String]) {
        self.note(path.to_vec());
        if let Some(name) = name {
            self.scope().imported.insert(name.clone(), path.to_vec());
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if is_for_tests(&item.attrs) {
            return;
        }
        // Without a body it is a file of its own.
        if item.content.is_some() {
            self.inside.push(item.ident.to_string());
            self.scope();
            visit::visit_item_mod(self, item);
            self.inside.pop();
        }
    }

    fn visit_item(&mut self, item: &'ast Item) {
        let name = match item {
            Item::Const(item) => Some(&item.ident),
            Item::Enum(item) => Some(&item.ident),
            Item::Fn(item) => Some(&item.sig.ident),
            Item::Macro(item) => item.ident.as_ref(),
            Item::Static(item) => Some(&item.ident),
            Item::Struct(item) => Some(&item.ident),
            Item::Trait(item) => Some(&item.ident),
            Item::Type(item) => Some(&item.ident),
            Item::Union(item) => Some(&item.ident),
            _ => None,
        };
        if let Some(name) = name {
            let name = name.to_string();
            self.scope().items.insert(name);
        }
        visit::visit_item(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !is_for_tests(&item.attrs) {
            self.note_tree(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let path_text: Written = path
            .segments
            .iter()
            .map(|part| part.ident.to_string())
            .collect();
        self.note(path_text);
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
