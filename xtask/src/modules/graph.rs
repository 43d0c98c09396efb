//! Graph of the modules with the same parent, and of their imports.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::source::{Crate, Place};

/// The children of one module. Everything below a child counts as the child.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) parent: Place,
    /// Imports: from the importing module to the imported one, with an example of each.
    edges: BTreeMap<String, BTreeMap<String, String>>,
}

/// Modules that import each other.
#[derive(Debug)]
pub(super) struct Cycle {
    members: Vec<String>,
    examples: Vec<String>,
}

impl Graph {
    /// Makes one graph for each module that has children which import each other.
    pub(super) fn of_levels(krate: &Crate) -> Vec<Self> {
        let mut graphs: BTreeMap<Place, Self> = BTreeMap::new();
        for (place, module) in &krate.modules {
            for path in &module.paths {
                let Some(target) = krate.resolve(place, path) else {
                    continue;
                };
                let common = place
                    .iter()
                    .zip(&target)
                    .take_while(|(one, other)| one == other)
                    .count();
                let (Some(from), Some(to)) = (place.get(common), target.get(common)) else {
                    continue;
                };
                let parent = place[..common].to_vec();
                let graph = graphs.entry(parent.clone()).or_insert_with(|| Self {
                    parent,
                    ..Self::default()
                });
                let imported = graph.edges.entry(from.clone()).or_default();
                imported
                    .entry(to.clone())
                    .or_insert_with(|| format!("{}: {}", place.join("::"), path.join("::")));
            }
        }
        graphs.into_values().collect()
    }

    /// Returns the modules that a module imports, directly or through others.
    fn reach<'g>(&'g self, from: &'g str) -> BTreeSet<&'g str> {
        let mut reached = BTreeSet::new();
        let mut open = vec![from];
        while let Some(next) = open.pop() {
            let imported = self.edges.get(next).into_iter().flat_map(BTreeMap::keys);
            open.extend(
                imported
                    .map(String::as_str)
                    .filter(|to| reached.insert(*to)),
            );
        }
        reached
    }

    /// Returns the largest groups of modules that all import each other, directly or through others.
    pub(super) fn cycles(&self) -> Vec<Cycle> {
        let reach: BTreeMap<_, _> = self
            .edges
            .keys()
            .map(|module| (module.as_str(), self.reach(module)))
            .collect();
        let mut seen = BTreeSet::new();
        let mut cycles = Vec::new();
        for (module, reached) in &reach {
            if !reached.contains(module) || !seen.insert(*module) {
                continue;
            }
            let members: Vec<_> = reached
                .iter()
                .filter(|other| reach.get(*other).is_some_and(|back| back.contains(module)))
                .copied()
                .collect();
            seen.extend(&members);
            let examples = members.iter().flat_map(|from| {
                let edges = &self.edges[*from];
                edges
                    .iter()
                    .filter(|(to, _)| members.contains(&to.as_str()))
                    .map(move |(to, example)| format!("{from} -> {to} ({example})"))
            });
            cycles.push(Cycle {
                examples: examples.collect(),
                members: members.iter().map(ToString::to_string).collect(),
            });
        }
        cycles
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (from, to) in &self.edges {
            let to: Vec<_> = to.keys().map(String::as_str).collect();
            writeln!(formatter, "  {from} -> {}", to.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Cycle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "  cycle: {}", self.members.join(", "))?;
        for example in &self.examples {
            write!(formatter, "\n    {example}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &str)]) -> Graph {
        let mut graph = Graph::default();
        for (from, to) in edges {
            let imported = graph.edges.entry((*from).to_owned()).or_default();
            imported.insert((*to).to_owned(), String::new());
        }
        graph
    }

    #[test]
    fn a_cycle_has_all_that_lead_to_each_other_and_no_others() {
        let edges = [
            ("a", "b"),
            ("b", "c"),
            ("c", "a"),
            ("c", "d"),
            ("x", "a"),
            ("d", "e"),
        ];
        let cycles = graph(&edges).cycles();
        assert_eq!(cycles.len(), 1);
        assert_eq!(cycles[0].members, ["a", "b", "c"]);
    }

    #[test]
    fn imports_downwards_are_no_cycle() {
        assert!(
            graph(&[("a", "b"), ("a", "c"), ("b", "c")])
                .cycles()
                .is_empty()
        );
    }

    #[test]
    fn two_cycles_are_two() {
        let edges = [("a", "b"), ("b", "a"), ("c", "d"), ("d", "c"), ("b", "c")];
        assert_eq!(graph(&edges).cycles().len(), 2);
    }
}
