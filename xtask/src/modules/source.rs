//! Reads the modules of a crate, and the paths in each.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use syn::{
    Attribute, Item, ItemMod, ItemUse, UseTree, Visibility,
    visit::{self, Visit},
};

/// Path of a module: the names from the crate's root on.
pub(super) type Place = Vec<String>;

/// A crate's modules without those that are only for tests.
#[derive(Debug, Default)]
pub(super) struct Crate {
    pub(super) modules: BTreeMap<Place, Module>,
}

/// References of one module to its crate.
#[derive(Debug, Default)]
pub(super) struct Module {
    /// Paths in `use` declarations and in code, as they are written.
    pub(super) paths: Vec<Vec<String>>,
    /// Names that it re-exports (`pub use`), and their paths.
    exports: Vec<(String, Vec<String>)>,
}

impl Crate {
    /// Reads the crate with this root file and the files of its modules.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut krate = Self::default();
        let folder = root.parent().context("a file is in a folder")?;
        krate.read_file(Vec::new(), root, folder)?;
        Ok(krate)
    }

    /// Reads one file. `folder` has the files of its children.
    fn read_file(&mut self, place: Place, file: &Path, folder: &Path) -> Result<()> {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let parsed =
            syn::parse_file(&text).with_context(|| format!("{} is not Rust", file.display()))?;
        self.read_items(place, &parsed.items, folder)
    }

    fn read_items(&mut self, place: Place, items: &[Item], folder: &Path) -> Result<()> {
        let mut module = Module::default();
        for item in items {
            match item {
                Item::Mod(child) if !is_for_tests(&child.attrs) => {
                    self.read_child(&place, child, folder)?;
                }
                Item::Mod(_) => {}
                item => module.visit_item(item),
            }
        }
        self.modules.insert(place, module);
        Ok(())
    }

    fn read_child(&mut self, parent: &Place, child: &ItemMod, folder: &Path) -> Result<()> {
        let name = child.ident.to_string();
        let folder = folder.join(&name);
        let place = [parent.as_slice(), &[name]].concat();
        if let Some((_, items)) = &child.content {
            return self.read_items(place, items, &folder);
        }
        let beside = folder.with_extension("rs");
        let file: PathBuf = if beside.exists() {
            beside
        } else {
            folder.join("mod.rs")
        };
        self.read_file(place, &file, &folder)
    }

    /// Returns the module of a path that is written in the module at `place`; `None` if it is outside of the crate.
    pub(super) fn resolve(&self, place: &Place, path: &[String]) -> Option<Place> {
        let mut at = place.clone();
        let mut names = path.iter();
        match path.first()?.as_str() {
            "crate" => {
                names.next();
                at.clear();
            }
            "self" => {
                names.next();
            }
            "super" => {
                for _ in path.iter().take_while(|name| *name == "super") {
                    names.next();
                    at.pop();
                }
            }
            first if !self.modules.contains_key(&child(place, first)) => return None,
            _ => {}
        }
        for name in names {
            let next = child(&at, name);
            if self.modules.contains_key(&next) {
                at = next;
                continue;
            }
            // An item of this module, or one that it re-exports.
            let exports = &self.modules.get(&at)?.exports;
            let behind = exports.iter().find(|(exported, _)| exported == name);
            return match behind {
                Some((_, path)) => self.resolve(&at, path).or(Some(at)),
                None => Some(at),
            };
        }
        Some(at)
    }
}

fn child(place: &Place, name: &str) -> Place {
    [place.as_slice(), &[name.to_owned()]].concat()
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|condition| condition == "test")
    })
}

impl Visit<'_> for Module {
    fn visit_item(&mut self, item: &Item) {
        let attributes: &[Attribute] = match item {
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Const(item) => &item.attrs,
            _ => &[],
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &ItemUse) {
        let mut paths = Vec::new();
        flatten(&item.tree, &mut Vec::new(), &mut paths);
        for (name, path) in paths {
            if !matches!(item.vis, Visibility::Inherited) {
                self.exports.push((name, path.clone()));
            }
            self.paths.push(path);
        }
    }

    fn visit_path(&mut self, path: &syn::Path) {
        let names: Vec<_> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        if matches!(names[0].as_str(), "crate" | "self" | "super") && names.len() > 1 {
            self.paths.push(names);
        }
        visit::visit_path(self, path);
    }
}

/// Collects the names that a `use` imports, each with its path.
fn flatten(tree: &UseTree, before: &mut Vec<String>, paths: &mut Vec<(String, Vec<String>)>) {
    let mut name = |last: String, name: String, before: &[String]| {
        let path = if last == "self" {
            before.to_vec()
        } else {
            [before, &[last]].concat()
        };
        paths.push((name, path));
    };
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, paths);
            before.pop();
        }
        UseTree::Name(last) => name(last.ident.to_string(), last.ident.to_string(), before),
        UseTree::Rename(last) => name(last.ident.to_string(), last.rename.to_string(), before),
        UseTree::Glob(_) => paths.push(("*".to_owned(), before.clone())),
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, before, paths);
            }
        }
    }
}
