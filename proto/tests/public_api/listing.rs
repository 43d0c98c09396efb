//! Lists the items that Rust sources export, one per line.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use quote::ToTokens;
use syn::{
    Attribute, Fields, FnArg, Generics, ImplItem, Item, ItemEnum, ItemImpl, ItemMod, ItemStruct,
    ReceiverKind, ReturnType, Signature, UseTree, Visibility,
};

/// Lines of a listing. The value of a public field or variant is the line of its type.
pub(super) type Lines = BTreeMap<String, Option<String>>;

/// End of the line of a struct with private fields.
pub(super) const PRIVATE: &str = "{ .. }";

/// Returns the public items of these sources, which make up one crate. `folder` contains the files of its modules.
pub(super) fn lines(sources: &[&str], folder: &Path) -> Lines {
    let mut api = Api::default();
    for source in sources {
        api.items("", &parse(source), folder);
    }
    for (line, of) in api.implementations {
        if api.types.contains(&of) {
            api.lines.insert(line, None);
        }
    }
    api.lines
}

#[derive(Default)]
struct Api {
    lines: Lines,
    /// Names of the public types.
    types: BTreeSet<String>,
    /// Lines of implementations, each with the name of its type. The type may be private.
    implementations: Vec<(String, String)>,
}

impl Api {
    fn items(&mut self, path: &str, items: &[Item], folder: &Path) {
        for item in items {
            match item {
                Item::Mod(item) if !is_test(&item.attrs) => self.module(path, item, folder),
                Item::Impl(item) => self.implementation(path, item),
                Item::Struct(item) if is_public(&item.vis) => self.structure(path, item),
                Item::Enum(item) if is_public(&item.vis) => self.enumeration(path, item),
                Item::Fn(item) if is_public(&item.vis) => {
                    self.add(path, &format!("pub {}", signature(&item.sig)));
                }
                Item::Const(item) if is_public(&item.vis) => {
                    self.add(
                        path,
                        &format!("pub const {}: {}", item.ident, text(&item.ty)),
                    );
                }
                Item::Use(item) if is_public(&item.vis) => {
                    for name in exports(&item.tree) {
                        self.add(path, &format!("pub use {name}"));
                    }
                }
                // The whole item is listed: it is better to report one change too many than to miss one.
                Item::Trait(item) if is_public(&item.vis) => self.add(path, &text(item)),
                Item::Type(item) if is_public(&item.vis) => self.add(path, &text(item)),
                Item::Static(item) if is_public(&item.vis) => self.add(path, &text(item)),
                Item::Macro(item) if !item.mac.path.is_ident("include") => {
                    panic!("a macro in {path}: what it makes is not listed");
                }
                _ => {}
            }
        }
    }

    fn module(&mut self, path: &str, item: &ItemMod, folder: &Path) {
        let name = item.ident.to_string();
        let folder = folder.join(&name);
        let inner = if is_public(&item.vis) {
            self.add(path, &format!("pub mod {name}"));
            format!("{path}{name}::")
        } else {
            path.to_owned()
        };
        if let Some((_, items)) = &item.content {
            self.items(&inner, items, &folder);
        } else {
            let source = fs::read_to_string(folder.with_extension("rs")).unwrap();
            self.items(&inner, &parse(&source), &folder);
        }
    }

    fn structure(&mut self, path: &str, item: &ItemStruct) {
        let name = item.ident.to_string();
        let private = item.fields.iter().any(|field| !is_public(&field.vis));
        let end = if private { PRIVATE } else { "{ }" };
        let declaration = format!("struct {name}{} {end}", generics(&item.generics));
        let of = self.declare(path, &name, &item.attrs, &declaration);
        for field in fields(&item.fields, true) {
            let line = format!("{path}{name}: pub {field}");
            self.lines.insert(line, Some(of.clone()));
        }
    }

    fn enumeration(&mut self, path: &str, item: &ItemEnum) {
        let name = item.ident.to_string();
        let declaration = format!("enum {name}{}", generics(&item.generics));
        let of = self.declare(path, &name, &item.attrs, &declaration);
        for variant in &item.variants {
            let inner = match variant.fields {
                Fields::Unit => String::new(),
                _ => format!("({})", fields(&variant.fields, false).join(", ")),
            };
            let number = match &variant.discriminant {
                Some((_, number)) => format!(" = {}", text(number)),
                None => String::new(),
            };
            let line = format!("{path}{name}::{}{inner}{number}", variant.ident);
            self.lines.insert(line, Some(of.clone()));
        }
    }

    fn implementation(&mut self, path: &str, item: &ItemImpl) {
        let of = match &*item.self_ty {
            syn::Type::Path(path) => path.path.segments.last().unwrap().ident.to_string(),
            other => panic!("an implementation for {}", text(other)),
        };
        let mut head = item.clone();
        head.attrs.clear();
        head.items.clear();
        let head = text(&head);
        let head = located(path, head.strip_suffix("{}").unwrap());
        for inner in &item.items {
            let line = match inner {
                ImplItem::Fn(inner) if is_public(&inner.vis) => {
                    format!("pub {}", signature(&inner.sig))
                }
                ImplItem::Const(inner) if is_public(&inner.vis) => {
                    format!("pub const {}: {}", inner.ident, text(&inner.ty))
                }
                ImplItem::Type(inner) => format!("type {} = {}", inner.ident, text(&inner.ty)),
                _ => continue,
            };
            self.implementations
                .push((format!("{head}: {line}"), of.clone()));
        }
        if item.trait_.is_some() {
            self.implementations.push((head, of));
        }
    }

    fn add(&mut self, path: &str, line: &str) {
        self.lines.insert(located(path, line), None);
    }

    /// Adds the line of a type and one for each derived trait. Returns the first.
    fn declare(&mut self, path: &str, name: &str, attributes: &[Attribute], line: &str) -> String {
        self.types.insert(name.to_owned());
        for derive in seen(attributes, &["derive"]) {
            for derived in derive["#[derive(".len()..derive.len() - ")]".len()].split(", ") {
                self.add(path, &format!("{name}: derives {derived}"));
            }
        }
        let mut line = format!("pub {line}");
        for attribute in seen(attributes, &["non_exhaustive", "repr"]) {
            line = format!("{attribute} {line}");
        }
        self.add(path, &line);
        located(path, &line)
    }
}

fn parse(source: &str) -> Vec<Item> {
    syn::parse_file(source).unwrap().items
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn is_test(attributes: &[Attribute]) -> bool {
    seen(attributes, &["cfg"]).contains(&"#[cfg(test)]".to_owned())
}

/// Returns the attributes with these names.
fn seen(attributes: &[Attribute], names: &[&str]) -> Vec<String> {
    attributes
        .iter()
        .filter(|attribute| names.iter().any(|name| attribute.path().is_ident(name)))
        .map(text)
        .collect()
}

/// Returns the public fields, or all fields (of a variant), with the attributes that generate conversions and the
/// protobuf encoding.
fn fields(fields: &Fields, only_public: bool) -> Vec<String> {
    fields
        .iter()
        .enumerate()
        .filter(|(_, field)| !only_public || is_public(&field.vis))
        .map(|(at, field)| {
            let name = field.ident.as_ref();
            let name = name.map_or(at.to_string(), ToString::to_string);
            let mut line = format!("{name}: {}", text(&field.ty));
            for attribute in seen(&field.attrs, &["from", "prost"]) {
                line = format!("{line} {attribute}");
            }
            line
        })
        .collect()
}

fn generics(generics: &Generics) -> String {
    text(generics) + &text(&generics.where_clause)
}

/// Returns the names that a `use` exports.
fn exports(tree: &UseTree) -> Vec<String> {
    match tree {
        UseTree::Path(path) => exports(&path.tree),
        UseTree::Group(group) => group.items.iter().flat_map(exports).collect(),
        UseTree::Name(name) => vec![name.ident.to_string()],
        UseTree::Rename(name) => vec![name.rename.to_string()],
        UseTree::Glob(_) => panic!("a glob: what it exports is not listed"),
    }
}

/// Formats a function without the names of its parameters, which callers do not see.
fn signature(function: &Signature) -> String {
    let mut head = function.clone();
    head.inputs.clear();
    head.output = ReturnType::Default;
    head.generics.where_clause = None;
    let parameters: Vec<_> = function
        .inputs
        .iter()
        .map(|parameter| match parameter {
            FnArg::Receiver(receiver) if matches!(receiver.kind, ReceiverKind::Value) => {
                "self".to_owned()
            }
            FnArg::Receiver(receiver) => text(receiver),
            FnArg::Typed(parameter) => text(&parameter.ty),
        })
        .collect();
    let head = text(&head);
    let head = head.strip_suffix("()").unwrap();
    let output = text(&function.output);
    let bounds = text(&function.generics.where_clause);
    format!("{head}({}){output}{bounds}", parameters.join(", "))
}

fn located(path: &str, line: &str) -> String {
    match path.strip_suffix("::") {
        Some(path) => format!("{path}: {line}"),
        None => line.to_owned(),
    }
}

/// Formats tokens in the usual way, independent of the spacing of the version of `proc_macro2`.
fn text(tokens: &impl ToTokens) -> String {
    let word = |c: char| c.is_alphanumeric() || "_'\"".contains(c);
    let mut text = String::new();
    for part in tokens.to_token_stream().to_string().split_whitespace() {
        if text.ends_with(|c| word(c) || ">)]".contains(c)) && part.starts_with(word) {
            text.push(' ');
        }
        text.push_str(part);
    }
    text.replace("::", "\0")
        .replace(':', ": ")
        .replace('\0', "::")
        .replace(',', ", ")
        .replace('+', " + ")
        .replace('=', " = ")
        .replace("->", " -> ")
        .replace("  ", " ")
}
