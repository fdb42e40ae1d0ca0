//! `cargo xtask sbom`: what the released gateway is made of, as a CycloneDX document.
//!
//! From `Cargo.lock` (names, versions, sums, edges) and `cargo tree` (which of them the binary holds, licenses, sources), for one
//! target, whatever machine asks. The same tree gives the same bytes: there is no time and no serial number in it. Source of the
//! form: CycloneDX 1.6, JSON.

use crate::{Result, launch};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

const LOCK: &str = "Cargo.lock";
const PRODUCT: &str = "gateway";
/// What is released. Other targets hold other packages.
const TARGET: &str = "x86_64-unknown-linux-gnu";

pub(crate) fn command(root: &Path, args: &[String]) -> Result<()> {
    let locked = std::fs::read_to_string(root.join(LOCK))
        .map_err(|error| format!("{}: {error}", root.join(LOCK).display()))?;
    let tree = launch::cargo()
        .args(["tree", "--locked", "--package", PRODUCT])
        .args(["--target", TARGET])
        .args(["--edges", "normal,build", "--prefix", "none"])
        .args(["--format", "{p}\t{l}\t{r}"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo tree: {error}"))?;
    if !tree.status.success() {
        return Err(format!(
            "cargo tree failed: {}",
            String::from_utf8_lossy(&tree.stderr).trim()
        ));
    }
    let document = document(&locked, &String::from_utf8_lossy(&tree.stdout))?;
    match args {
        [] => print!("{document}"),
        [file] => std::fs::write(file, document).map_err(|error| format!("{file}: {error}"))?,
        _ => return Err("usage: cargo xtask sbom [FILE]".to_owned()),
    }
    Ok(())
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    name: String,
    version: String,
}

impl Id {
    /// Source: the package URL type `cargo`.
    fn purl(&self) -> String {
        format!(
            "pkg:cargo/{}@{}",
            self.name,
            self.version.replace('+', "%2B")
        )
    }
}

/// One package of `Cargo.lock`.
#[derive(Debug, Default)]
struct Locked {
    checksum: Option<String>,
    /// `name`, or `name version` where there are several.
    needs: Vec<String>,
}

/// What `cargo tree` says of a package.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    license: String,
    repository: String,
}

fn document(locked: &str, tree: &str) -> Result<String> {
    let locked = read_lock(locked);
    let told = read_tree(tree);
    let product = told
        .keys()
        .find(|id| id.name == PRODUCT)
        .ok_or("cargo tree names no gateway")?
        .clone();
    let mut out = String::from(
        "{\n  \"bomFormat\": \"CycloneDX\",\n  \"specVersion\": \"1.6\",\n  \"version\": 1,\n",
    );
    writeln!(
        out,
        "  \"metadata\": {{\n    \"component\": {{ \"type\": \"application\", \"bom-ref\": {}, \"name\": \"openclaw-gateway\", \"version\": {}, \"licenses\": [{{ \"license\": {{ \"id\": \"MIT\" }} }}], \"properties\": [{{ \"name\": \"cdx:rustc:sbom:target:triple\", \"value\": {} }}] }}\n  }},\n  \"components\": [",
        json(&product.purl()),
        json(&product.version),
        json(TARGET),
    )
    .expect("writing to a string cannot fail");
    let parts: Vec<String> = told
        .iter()
        .filter(|(id, _)| **id != product)
        .map(|(id, told)| component(id, told, locked.get(id)))
        .collect();
    out.push_str(&parts.join(",\n"));
    out.push_str("\n  ],\n  \"dependencies\": [\n");
    let edges: Vec<String> = told
        .keys()
        .map(|id| {
            let needs: Vec<String> = locked
                .get(id)
                .into_iter()
                .flat_map(|package| &package.needs)
                .filter_map(|need| named(need, &told))
                .collect::<BTreeSet<_>>()
                .into_iter()
                .map(|need| json(&need.purl()))
                .collect();
            format!(
                "    {{ \"ref\": {}, \"dependsOn\": [{}] }}",
                json(&id.purl()),
                needs.join(", ")
            )
        })
        .collect();
    out.push_str(&edges.join(",\n"));
    out.push_str("\n  ]\n}\n");
    Ok(out)
}

fn component(id: &Id, told: &Told, locked: Option<&Locked>) -> String {
    let purl = json(&id.purl());
    let mut out = format!(
        "    {{ \"type\": \"library\", \"bom-ref\": {purl}, \"name\": {}, \"version\": {}, \"purl\": {purl}",
        json(&id.name),
        json(&id.version)
    );
    if let Some(sum) = locked.and_then(|package| package.checksum.as_deref()) {
        out.push_str(&format!(
            ", \"hashes\": [{{ \"alg\": \"SHA-256\", \"content\": {} }}]",
            json(sum)
        ));
    }
    if !told.license.is_empty() {
        // Before SPDX expressions, Cargo's field took a slash for "or".
        let expression = told.license.replace(" / ", "/").replace('/', " OR ");
        out.push_str(&format!(
            ", \"licenses\": [{{ \"expression\": {} }}]",
            json(&expression)
        ));
    }
    if !told.repository.is_empty() {
        out.push_str(&format!(
            ", \"externalReferences\": [{{ \"type\": \"vcs\", \"url\": {} }}]",
            json(&told.repository)
        ));
    }
    out.push_str(" }");
    out
}

/// The package that an edge of `Cargo.lock` leads to, if it is in the binary.
fn named(need: &str, told: &BTreeMap<Id, Told>) -> Option<Id> {
    let mut words = need.split(' ');
    let (name, version) = (words.next()?, words.next());
    let found = told
        .keys()
        .find(|id| id.name == name && version.is_none_or(|version| version == id.version));
    found.cloned()
}

fn read_lock(text: &str) -> BTreeMap<Id, Locked> {
    let mut all = BTreeMap::new();
    for part in text.split("[[package]]").skip(1) {
        let value = |key: &str| {
            let lines = part.lines();
            lines
                .filter_map(|line| {
                    line.strip_prefix(key)?
                        .strip_prefix(" = \"")?
                        .strip_suffix('"')
                })
                .map(str::to_owned)
                .next()
        };
        let needs = part.split_once("dependencies = [").map(|(_, rest)| {
            let list = rest.split(']').next().unwrap_or_default();
            list.split('"')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect()
        });
        if let (Some(name), Some(version)) = (value("name"), value("version")) {
            let package = Locked {
                checksum: value("checksum"),
                needs: needs.unwrap_or_default(),
            };
            all.insert(Id { name, version }, package);
        }
    }
    all
}

/// Lines of `name vVERSION (where)`, license and repository, with tabs between; a package may come many times.
fn read_tree(text: &str) -> BTreeMap<Id, Told> {
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split('\t');
        let mut words = fields.next().unwrap_or_default().split(' ');
        let (Some(name), Some(version)) = (words.next(), words.next()) else {
            continue;
        };
        let Some(version) = version.strip_prefix('v') else {
            continue;
        };
        // What was shown before is marked so.
        let mut field = || {
            let text = fields.next().unwrap_or_default();
            text.trim_end_matches(" (*)").to_owned()
        };
        let told = Told {
            license: field(),
            repository: field(),
        };
        let id = Id {
            name: name.to_owned(),
            version: version.to_owned(),
        };
        all.entry(id).or_insert(told);
    }
    all
}

fn json(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKED: &str = "version = 4\n\n[[package]]\nname = \"gateway\"\nversion = \"0.1.0\"\ndependencies = [\n \"a\",\n \"b 2.0.0\",\n \"tests-only\",\n]\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0+x\"\nsource = \"registry\"\nchecksum = \"00ff\"\n\n[[package]]\nname = \"b\"\nversion = \"2.0.0\"\n\n[[package]]\nname = \"b\"\nversion = \"1.0.0\"\n";
    const TREE: &str = "gateway v0.1.0 (/x)\tMIT\t\na v1.0.0+x\tMIT/Apache-2.0\thttps://a.example/\nb v2.0.0\tISC\t (*)\n";

    #[test]
    fn what_is_in_the_binary_is_listed_with_sums_and_edges() {
        let document = document(LOCKED, TREE).expect("a document");
        for part in [
            "\"name\": \"cdx:rustc:sbom:target:triple\", \"value\": \"x86_64-unknown-linux-gnu\"",
            "\"bom-ref\": \"pkg:cargo/a@1.0.0%2Bx\", \"name\": \"a\", \"version\": \"1.0.0+x\"",
            "\"hashes\": [{ \"alg\": \"SHA-256\", \"content\": \"00ff\" }]",
            "{ \"expression\": \"MIT OR Apache-2.0\" }",
            "{ \"type\": \"vcs\", \"url\": \"https://a.example/\" }",
            "{ \"ref\": \"pkg:cargo/gateway@0.1.0\", \"dependsOn\": [\"pkg:cargo/a@1.0.0%2Bx\", \"pkg:cargo/b@2.0.0\"] }",
        ] {
            assert!(document.contains(part), "{part}\n{document}");
        }
        assert!(!document.contains("b@1.0.0") && !document.contains("tests-only"));
    }
}
