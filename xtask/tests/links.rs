//! The repository's documents: every relative link leads to a file, and every anchor to a heading; each page below
//! `docs/` can be reached from README; the pages that have to be short are.
//!
//! Left out: links to other hosts, which a test without a network can't follow.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

use regex::Regex;

/// Pages that people read as a whole, and the most lines that they may have.
const SHORT: [(&str, usize); 2] = [
    ("README.md", 120),
    ("docs/explanation/architecture.md", 250),
];
/// Fewer links than these mean that the test reads nothing.
const LEAST_LINKS: usize = 100;

/// The repository's Markdown files.
struct Documents {
    root: PathBuf,
    /// By their path from the root.
    texts: BTreeMap<PathBuf, String>,
}

/// A link, as it is written in a document.
struct Link {
    document: PathBuf,
    line: usize,
    target: String,
}

impl Documents {
    fn read(root: &Path) -> Self {
        let mut texts = BTreeMap::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(root.join(&folder)).expect("a folder") {
                let entry = entry.expect("an entry");
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = folder.join(&name);
                let kind = entry.file_type().expect("a kind");
                if kind.is_dir() && name != "target" && name != ".git" {
                    folders.push(path);
                } else if kind.is_file() && name.ends_with(".md") {
                    let text = fs::read_to_string(entry.path()).expect("a text");
                    texts.insert(path, text);
                }
            }
        }
        Self {
            root: root.to_owned(),
            texts,
        }
    }

    /// Every relative link.
    fn links(&self) -> Vec<Link> {
        // `[text](target)` and `[text](target "title")`, images too; `[name]: target` at the beginning of a line.
        let links = Regex::new(r#"\]\(([^()\s]+)(?:\s+"[^"]*")?\)|^\[[^\]]+\]:\s*(\S+)"#);
        let links = links.expect("a regular expression");
        let code = Regex::new("`[^`]*`").expect("a regular expression");
        let mut found = Vec::new();
        for (document, text) in &self.texts {
            for (number, line) in prose(text) {
                let line = code.replace_all(line, "");
                for link in links.captures_iter(&line) {
                    let target = link.get(1).or(link.get(2)).expect("one of both").as_str();
                    if target.contains("://") || target.starts_with("mailto:") {
                        continue;
                    }
                    found.push(Link {
                        document: document.clone(),
                        line: number,
                        target: target.to_owned(),
                    });
                }
            }
        }
        found
    }

    /// The file that a link leads to, by its path from the root, and its anchor; an error if it leads nowhere.
    fn resolve(&self, link: &Link) -> Result<PathBuf, String> {
        let (path, anchor) = match link.target.split_once('#') {
            Some((path, anchor)) => (path, Some(anchor)),
            None => (link.target.as_str(), None),
        };
        let file = if path.is_empty() {
            link.document.clone()
        } else {
            let folder = link.document.parent().unwrap_or(Path::new(""));
            normal(&folder.join(path)).ok_or("outside of the repository")?
        };
        if !self.root.join(&file).exists() {
            return Err(format!("there is no {}", file.display()));
        }
        let Some(anchor) = anchor else {
            return Ok(file);
        };
        let text = self.texts.get(&file);
        let text = text.ok_or_else(|| format!("{} has no anchors", file.display()))?;
        if !anchors(text).contains(anchor) {
            return Err(format!("{} has no heading #{anchor}", file.display()));
        }
        Ok(file)
    }

    /// The links that lead nowhere, in words.
    fn broken(&self) -> Vec<String> {
        let broken = self.links().into_iter().filter_map(|link| {
            let why = self.resolve(&link).err()?;
            let (document, line) = (link.document.display(), link.line);
            Some(format!("{document}:{line}: {}: {why}", link.target))
        });
        broken.collect()
    }

    /// The pages below `docs/` that no path of links leads to from README.
    fn unreachable(&self) -> Vec<String> {
        let mut next = vec![PathBuf::from("README.md")];
        let mut reached = BTreeSet::from_iter(next.clone());
        let links = self.links();
        while let Some(document) = next.pop() {
            for link in links.iter().filter(|link| link.document == document) {
                if let Ok(file) = self.resolve(link)
                    && reached.insert(file.clone())
                {
                    next.push(file);
                }
            }
        }
        let pages = self.texts.keys().filter(|page| page.starts_with("docs"));
        let lost = pages.filter(|page| !reached.contains(*page));
        lost.map(|page| page.display().to_string()).collect()
    }

    /// The short pages that are missing or too long, in words.
    fn too_long(&self) -> Vec<String> {
        let long = SHORT.into_iter().filter_map(|(page, most)| {
            let Some(text) = self.texts.get(Path::new(page)) else {
                return Some(format!("there is no {page}"));
            };
            let lines = text.lines().count();
            (lines > most).then(|| format!("{page} has {lines} lines, {most} at most"))
        });
        long.collect()
    }
}

/// The lines outside of code blocks, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
            return None;
        }
        (!in_code).then_some((index + 1, line))
    })
}

/// A path without `.` and `..`; nothing for one that leaves its root.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !normal.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(normal)
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let heading = Regex::new(r"^#{1,6}\s+(.*?)\s*#*$").expect("a regular expression");
    let link = Regex::new(r"\[([^\]]*)\]\([^)]*\)").expect("a regular expression");
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text) {
        let Some(heading) = heading.captures(line) else {
            continue;
        };
        let title = link.replace_all(&heading[1], "$1").to_lowercase();
        let slug: String = title
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        // The second heading of the same words gets a number.
        let times = seen.entry(slug.clone()).or_default();
        anchors.insert(match *times {
            0 => slug,
            times => format!("{slug}-{times}"),
        });
        *times += 1;
    }
    anchors
}

fn repository() -> Documents {
    Documents::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let documents = repository();
    let links = documents.links().len();
    assert!(links >= LEAST_LINKS, "only {links} links were found");
    let broken = documents.broken();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_page_can_be_reached_from_readme() {
    let unreachable = repository().unreachable();
    assert!(unreachable.is_empty(), "{unreachable:#?}");
}

#[test]
fn readme_and_architecture_are_short() {
    let too_long = repository().too_long();
    assert!(too_long.is_empty(), "{too_long:#?}");
}

#[test]
fn a_broken_link_a_lost_page_and_a_long_one_are_found() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    };
    write(
        "README.md",
        "# Home\n\
         [a page](docs/page.md) [its heading](docs/page.md#one-more--heading) [again](docs/page.md#same-1)\n\
         [a file](compose.yaml) [elsewhere](https://example.com/none) [here](#home) ![a picture](docs/picture.png)\n\
         `[in code](none.md)`\n\
         ```\n[in a block](none.md)\n```\n\
         [`gone`](docs/gone.md) [renamed](docs/page.md#old-heading) [a file's line](compose.yaml#L1)\n\
         [above](../secret.md) [nowhere](#nowhere)\n\
         [definition]: docs/none.md\n",
    );
    write(
        "docs/page.md",
        "# Page\n## One `more` – *heading*\n## Same\n## Same\n[back](../README.md#home)\n",
    );
    write("docs/lost.md", "# Lost\n[home](../README.md)\n");
    write("docs/picture.png", "");
    write("docs/explanation/architecture.md", &"line\n".repeat(251));
    write("compose.yaml", "");
    // Not the repository's own.
    write("target/package/README.md", "[gone](gone.md)\n");

    let documents = Documents::read(folder.path());
    assert_eq!(
        documents.broken(),
        [
            "README.md:8: docs/gone.md: there is no docs/gone.md",
            "README.md:8: docs/page.md#old-heading: docs/page.md has no heading #old-heading",
            "README.md:8: compose.yaml#L1: compose.yaml has no anchors",
            "README.md:9: ../secret.md: outside of the repository",
            "README.md:9: #nowhere: README.md has no heading #nowhere",
            "README.md:10: docs/none.md: there is no docs/none.md",
        ]
    );
    assert_eq!(
        documents.unreachable(),
        ["docs/explanation/architecture.md", "docs/lost.md"]
    );
    assert_eq!(
        documents.too_long(),
        ["docs/explanation/architecture.md has 251 lines, 250 at most"]
    );
}
