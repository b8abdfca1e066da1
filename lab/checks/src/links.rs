//! The links of documents: every relative one leads to a file, and every anchor to a heading; each page below `docs/` can be
//! reached from README; the pages that have to be short are.
//!
//! Left out: reading files, and links to other hosts, which nothing without a network can follow.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
    sync::LazyLock,
};

use regex_lite::Regex;

/// Pages that people read as a whole, and the most lines that they may have.
const SHORT: [(&str, usize); 2] = [
    ("README.md", 120),
    ("docs/explanation/architecture.md", 250),
];
/// `[text](target)` and `[text](target "title")`, images too; `[name]: target` at the beginning of a line.
static LINKS: LazyLock<Regex> =
    LazyLock::new(|| regex(r#"\]\(([^()\s]+)(?:\s+"[^"]*")?\)|^\[[^\]]+\]:\s*(\S+)"#));
static CODE: LazyLock<Regex> = LazyLock::new(|| regex("`[^`]*`"));
static HEADING: LazyLock<Regex> = LazyLock::new(|| regex(r"^#{1,6}\s+(.*?)\s*#*$"));
static LINKED: LazyLock<Regex> = LazyLock::new(|| regex(r"\[([^\]]*)\]\([^)]*\)"));

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a regular expression")
}

/// A repository's Markdown files.
pub struct Documents<'a> {
    /// By their path from the root.
    texts: BTreeMap<PathBuf, String>,
    exists: &'a dyn Fn(&Path) -> bool,
}

/// A link, as it is written in a document.
struct Link {
    document: PathBuf,
    line: usize,
    target: String,
}

impl<'a> Documents<'a> {
    /// Documents by their path from the repository's root; `exists` says whether there is a file or folder at such a path.
    pub fn new(texts: BTreeMap<PathBuf, String>, exists: &'a dyn Fn(&Path) -> bool) -> Self {
        Self { texts, exists }
    }

    /// Everything that is wrong, in words: links that lead nowhere, pages that no link leads to, pages that are too long.
    pub fn wrong(&self) -> Vec<String> {
        let unreachable = self.unreachable().into_iter();
        let unreachable =
            unreachable.map(|page| format!("{page}: no link from README leads to it"));
        let mut wrong = self.broken();
        wrong.extend(unreachable.chain(self.too_long()));
        wrong
    }

    /// How many relative links there are.
    pub fn count(&self) -> usize {
        self.links().len()
    }

    /// Every relative link.
    fn links(&self) -> Vec<Link> {
        let mut found = Vec::new();
        for (document, text) in &self.texts {
            for (number, line) in prose(text) {
                let line = CODE.replace_all(line, "");
                for link in LINKS.captures_iter(&line) {
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
        if !(self.exists)(&file) {
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
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text) {
        let Some(heading) = HEADING.captures(line) else {
            continue;
        };
        let title = LINKED.replace_all(&heading[1], "$1").to_lowercase();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_link_a_lost_page_and_a_long_one_are_found() {
        let long = "line\n".repeat(251);
        let texts = [
            (
                "README.md",
                "# Home\n\
                 [a page](docs/page.md) [its heading](docs/page.md#one-more--heading) [again](docs/page.md#same-1)\n\
                 [a file](compose.yaml) [elsewhere](https://example.com/none) [here](#home) ![a picture](docs/picture.png)\n\
                 `[in code](none.md)`\n\
                 ```\n[in a block](none.md)\n```\n\
                 [`gone`](docs/gone.md) [renamed](docs/page.md#old-heading) [a file's line](compose.yaml#L1)\n\
                 [above](../secret.md) [nowhere](#nowhere)\n\
                 [definition]: docs/none.md\n",
            ),
            (
                "docs/page.md",
                "# Page\n## One `more` – *heading*\n## Same\n## Same\n[back](../README.md#home)\n",
            ),
            ("docs/lost.md", "# Lost\n[home](../README.md)\n"),
            ("docs/explanation/architecture.md", long.as_str()),
        ];
        let texts: BTreeMap<PathBuf, String> = texts
            .into_iter()
            .map(|(path, text)| (path.into(), text.to_owned()))
            .collect();
        let others = ["docs/picture.png", "compose.yaml"].map(Path::new);
        let pages: BTreeSet<PathBuf> = texts.keys().cloned().collect();
        let exists = |path: &Path| pages.contains(path) || others.contains(&path);
        let documents = Documents::new(texts, &exists);
        assert_eq!(
            documents.wrong(),
            [
                "README.md:8: docs/gone.md: there is no docs/gone.md",
                "README.md:8: docs/page.md#old-heading: docs/page.md has no heading #old-heading",
                "README.md:8: compose.yaml#L1: compose.yaml has no anchors",
                "README.md:9: ../secret.md: outside of the repository",
                "README.md:9: #nowhere: README.md has no heading #nowhere",
                "README.md:10: docs/none.md: there is no docs/none.md",
                "docs/explanation/architecture.md: no link from README leads to it",
                "docs/lost.md: no link from README leads to it",
                "docs/explanation/architecture.md has 251 lines, 250 at most",
            ]
        );
    }
}
