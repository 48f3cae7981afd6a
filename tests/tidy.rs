//! The rules of the layers, and of tidiness, as a test: what a reviewer would otherwise have to remember.
//!
//! It reads the sources as text: comments and strings are blanked out first, and paths are found in what is left. That is not a
//! compiler, but nobody gets around it without wanting to.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each layer may not name, of the crate and of the world.
const LAYERS: &[(&str, &[&str], &[&str])] = &[
    (
        "src/protocol",
        &["os", "segment", "backend", "api"],
        &["std::time", "std::thread", "libc", "nix", "memmap2", "fs2"],
    ),
    ("src/os", &["protocol", "segment", "backend", "api"], &[]),
    ("src/segment", &["backend", "api"], &[]),
    ("src/backend", &["api"], &[]),
];

/// All that the API names of the layers it does not stand on directly. Something new here is to be thought about: what users
/// see should not be made of futexes and offsets.
const KNOWN_TO_THE_API: &[&str] = &[
    "crate::os::clock::Deadline",
    "crate::os::fork",
    // What a diagnosis is about.
    "crate::os::probe",
    "crate::segment::format::Kind",
    "crate::segment::open::Options",
];

/// Signals, and what is done between fork and exec; what is measured beside hostlock, in memory that processes share. The tool sees no more of the
/// library than its users do.
const UNSAFE_OF_THE_TOOL: &[&str] = &[
    "src/bin/hostlock/signals.rs",
    "src/bin/hostlock/bench/arena.rs",
    "src/bin/hostlock/bench/children.rs",
    "src/bin/hostlock/bench/ground.rs",
    "src/bin/hostlock/bench/peers/",
    "src/bin/hostlock/bench/suites/lines.rs",
    "src/bin/hostlock/bench/suites/open.rs",
    "src/bin/hostlock/bench/tests.rs",
];

/// Where `unsafe` is allowed besides `src/os`: the types that may lie in shared memory are declared where they are defined.
const UNSAFE_ELSEWHERE: &[&str] = &["src/segment/format.rs"];

/// The private cfg under which only the protocol compiles, and who may know of it.
const PRIVATE_CFG: &str = "hostlock_loom";
const KNOWS_THE_CFG: &[&str] = &["src/lib.rs", "src/sync.rs", "src/protocol/"];

const MOST_LINES: usize = 600;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `directory` (relative to the repository) that we wrote.
fn files(directory: &str) -> Vec<PathBuf> {
    fn walk(directory: &Path, into: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries.map(|entry| entry.unwrap()) {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            // In a worktree `.git` is a file, which says where the repository is.
            if name == "target" || name == ".git" {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                walk(&path, into);
            } else if entry.file_type().unwrap().is_file() {
                into.push(path.strip_prefix(repository()).unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(&repository().join(directory), &mut found);
    found.sort();
    found
}

fn sources(directory: &str) -> Vec<(String, String)> {
    let sources: Vec<_> = files(directory)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| (path.to_string_lossy().into_owned(), fs::read_to_string(repository().join(&path)).unwrap()))
        .collect();
    assert!(!sources.is_empty(), "no sources in {directory}");
    sources
}

/// Whether the character at `index` goes on with a word that began before it. (A `b` before a raw string is its mark.)
fn ends_a_word(index: usize, chars: &[char]) -> bool {
    let is_of_word = |back: usize| {
        index.checked_sub(back).is_some_and(|before| chars[before].is_alphanumeric() || chars[before] == '_')
    };
    is_of_word(1) && (chars[index - 1] != 'b' || is_of_word(2))
}

/// The source with comments and the insides of strings and characters blanked out; lines stay where they are.
fn code_of(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut code = String::with_capacity(source.len());
    let mut index = 0;
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    while index < chars.len() {
        let start = index;
        match at(index) {
            '/' if at(index + 1) == '/' => {
                while index < chars.len() && at(index) != '\n' {
                    index += 1;
                }
            }
            '/' if at(index + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(index), at(index + 1)) {
                        ('/', '*') => (depth, index) = (depth + 1, index + 2),
                        ('*', '/') => (depth, index) = (depth - 1, index + 2),
                        _ => index += 1,
                    }
                    if depth == 0 || index >= chars.len() {
                        break;
                    }
                }
            }
            'r' if (at(index + 1) == '"' || at(index + 1) == '#') && !ends_a_word(index, &chars) => {
                let hashes = chars[index + 1..].iter().take_while(|c| **c == '#').count();
                if at(index + 1 + hashes) == '"' {
                    index += hashes + 2;
                    let closes = |index: usize| {
                        at(index) == '"'
                            && chars[index + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
                    };
                    while index < chars.len() && !closes(index) {
                        index += 1;
                    }
                    index += 1 + hashes;
                } else {
                    code.push('r');
                    index += 1;
                    continue;
                }
            }
            '"' => {
                index += 1;
                while index < chars.len() && at(index) != '"' {
                    index += if at(index) == '\\' { 2 } else { 1 };
                }
                index += 1;
            }
            // A character, and not a lifetime.
            '\'' if at(index + 1) == '\\' || at(index + 2) == '\'' => {
                index += if at(index + 1) == '\\' { 3 } else { 2 };
                while index < chars.len() && at(index) != '\'' {
                    index += 1;
                }
                index += 1;
            }
            c => {
                code.push(c);
                index += 1;
                continue;
            }
        }
        code.extend(chars[start..index.min(chars.len())].iter().map(|c| blank(*c)));
    }
    code
}

/// All paths in `code`, with `use` trees written out: `use a::{b, c::d}` names `a::b` and `a::c::d`.
fn paths_in(code: &str) -> BTreeSet<String> {
    let mut tokens = Vec::new();
    let mut word = String::new();
    for c in code.chars() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            tokens.push(std::mem::take(&mut word));
        }
        if !c.is_whitespace() {
            tokens.push(c.into());
        }
    }
    let mut paths = BTreeSet::new();
    let mut at = 0;
    while at < tokens.len() {
        tree(&tokens, &mut at, &[], &mut paths);
        at += 1;
    }
    paths
}

/// One path, or tree of paths, from `tokens[at]` on, below `prefix`; `at` is left on its last token.
fn tree(tokens: &[String], at: &mut usize, prefix: &[String], paths: &mut BTreeSet<String>) {
    let token = |index: usize| tokens.get(index).map_or("", String::as_str);
    let is_word = |index: usize| token(index).starts_with(|c: char| c.is_alphabetic() || c == '_');
    if !is_word(*at) {
        return;
    }
    let mut path = prefix.to_vec();
    path.push(token(*at).into());
    while token(*at + 1) == ":" && token(*at + 2) == ":" {
        if is_word(*at + 3) {
            *at += 3;
            path.push(token(*at).into());
        } else if token(*at + 3) == "{" {
            *at += 4;
            while *at < tokens.len() && token(*at) != "}" {
                tree(tokens, at, &path, paths);
                *at += 1;
            }
            break;
        } else {
            break;
        }
    }
    if path.len() > 1 || prefix.is_empty() {
        paths.insert(path.join("::"));
    }
}

/// Whether `path` is `module` or something in it.
fn is_in(path: &str, module: &str) -> bool {
    path == module || path.strip_prefix(module).is_some_and(|rest| rest.starts_with("::"))
}

/// The module a file is: `crate::os::file` for `src/os/file.rs`. What `super` means there is one less.
fn absolute(file: &str, path: &str) -> String {
    let mut module: Vec<_> = file.trim_start_matches("src/").trim_end_matches(".rs").split('/').collect();
    if module.last() == Some(&"mod") {
        module.pop();
    }
    let mut rest = path;
    while let Some(after) = rest.strip_prefix("super::") {
        // Within a file's own `mod tests` it is one level less; taking it for one more only reaches too far up.
        module.pop();
        rest = after;
    }
    match rest.len() == path.len() {
        true => path.into(),
        false => [&["crate"], &module[..], &[rest]].concat().join("::"),
    }
}

#[test]
fn dependencies_run_one_way() {
    let mut found = Vec::new();
    for (directory, layers, world) in LAYERS {
        for (file, source) in sources(directory) {
            for path in paths_in(&code_of(&source)) {
                let full = absolute(&file, &path);
                let above = layers.iter().any(|layer| is_in(&full, &format!("crate::{layer}")));
                // Models are tests: what runs them may look at a clock.
                let world = if file.starts_with("src/protocol/models/") { &[] } else { *world };
                if above || world.iter().any(|of| is_in(&path, of)) {
                    found.push(format!("{file} names {path}"));
                }
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_api_names_no_more_of_what_is_below_than_it_did() {
    let mut found = Vec::new();
    for (file, source) in sources("src/api") {
        for path in paths_in(&code_of(&source)) {
            let below = ["crate::os", "crate::segment", "crate::protocol"].iter().any(|layer| is_in(&path, layer));
            if below && !KNOWN_TO_THE_API.iter().any(|known| is_in(&path, known)) {
                found.push(format!("{file} names {path}"));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn unsafe_is_where_it_belongs() {
    let mut found = Vec::new();
    for (file, source) in sources("src") {
        let of_the_tool = UNSAFE_OF_THE_TOOL.iter().any(|known| file.starts_with(known));
        if file.starts_with("src/os/") || UNSAFE_ELSEWHERE.contains(&file.as_str()) || of_the_tool {
            continue;
        }
        if paths_in(&code_of(&source)).contains("unsafe") {
            found.push(file);
        }
    }
    assert!(found.is_empty(), "unsafe in {found:?}");
}

#[test]
fn shared_memory_types_are_the_only_unsafe_of_the_segment() {
    for file in UNSAFE_ELSEWHERE {
        let code = code_of(&fs::read_to_string(repository().join(file)).unwrap());
        let all = code.split_whitespace().filter(|word| *word == "unsafe").count();
        let declared = code.split("unsafe impl Shared for").count() - 1;
        assert!(all == declared && all > 0, "{file} has {all} unsafe, of which {declared} declare shared types");
    }
}

#[test]
fn no_source_is_too_long_to_be_read() {
    let long: Vec<_> = sources("src")
        .into_iter()
        .map(|(file, source)| (file, source.lines().count()))
        .filter(|(_, lines)| *lines >= MOST_LINES)
        .collect();
    assert!(long.is_empty(), "{long:?} have {MOST_LINES} lines or more; they are two files each");
}

#[test]
fn the_private_cfg_is_known_to_few() {
    // Also in comments: who does not know of it does not speak of it.
    let found: Vec<_> = sources("src")
        .into_iter()
        .filter(|(file, source)| {
            source.contains(PRIVATE_CFG) && !KNOWS_THE_CFG.iter().any(|known| file.starts_with(known))
        })
        .map(|(file, _)| file)
        .collect();
    assert!(found.is_empty(), "{found:?}");
}

/// Where a developer's files lie, in any text of ours.
fn private_paths(text: &str) -> Vec<&str> {
    // Put together here, so that this file does not find itself.
    let marks = ["/ho|me/", "/Us|ers/", "/ro|ot/", "/wo|rk/", "C:\\|Users", "/tmp/tar|get", "/mnt/|c/"]
        .map(|mark| mark.replace('|', ""));
    text.lines().filter(|line| marks.iter().any(|mark| line.contains(mark.as_str()))).collect()
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let mut found = Vec::new();
    for path in files(".") {
        // What is not text has no paths to read.
        let Ok(text) = fs::read_to_string(repository().join(&path)) else { continue };
        found.extend(private_paths(&text).iter().map(|line| format!("{}: {line}", path.display())));
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Targets of Markdown links in `text`, code left out.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Every second part is between backticks.
        let line: String = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
        let inline = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        links.extend(inline.map(String::from));
        if let Some((label, target)) = line.trim_start().split_once("]: ")
            && label.starts_with('[')
        {
            links.extend(target.split_whitespace().next().map(String::from));
        }
    }
    links
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut broken = Vec::new();
    let mut checked = 0;
    for path in files(".").into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(repository().join(&path)).unwrap();
        for link in links(&text) {
            let target = link.split('#').next().unwrap_or_default();
            // The world's, a place in this file, and rustdoc's, which rustdoc checks.
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") || target.contains("::") {
                continue;
            }
            checked += 1;
            let from = repository().join(&path);
            if !from.parent().unwrap().join(target).exists() {
                broken.push(format!("{} -> {link}", path.display()));
            }
        }
    }
    eprintln!("{checked} links checked");
    assert!(broken.is_empty(), "{broken:#?}");
}

// ---------------------------------------------------------------------------------------------------------------------
// The page of hazards.

const HAZARDS: &str = "src/docs/hazards.md";
const LAST_HAZARD: usize = 79;

/// Those that happened to others' locks before our eyes: a test provokes each.
const SEEN_TO_HAPPEN: [usize; 13] = [6, 7, 9, 10, 15, 16, 19, 29, 37, 38, 43, 46, 54];

/// Whether a test of that name is in `source`, or in a list of tests that a macro makes, which may be in the `main` beside it.
fn is_test(name: &str, source: &str, main: &str) -> bool {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let defines = |line: &str| {
        let rest = line.trim_start_matches("pub ").strip_prefix("fn ").and_then(|rest| rest.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with('('))
    };
    let Some(at) = lines.iter().position(|line| defines(line)) else { return false };
    let marked = lines[..at].iter().rev().take_while(|line| line.starts_with("#[")).any(|line| *line == "#[test]");
    marked || [source, main].iter().any(|text| text.lines().any(|line| line.trim().trim_end_matches(';') == name))
}

/// What is wrong with the page of hazards, whose tests are in what `read` finds.
fn problems_of_hazards(page: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut problems = Vec::new();
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| H") || line.starts_with("| **H"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    if rows.len() != LAST_HAZARD {
        problems.push(format!("{} rows, not {LAST_HAZARD}", rows.len()));
    }
    for (row, number) in rows.iter().zip(1..) {
        let [id, wrong, here] = row[..] else {
            problems.push(format!("row {number} has {} cells", row.len()));
            continue;
        };
        let (is_bold, id) = (id.starts_with("**"), id.trim_matches('*'));
        if id != format!("H{number:02}") {
            problems.push(format!("row {number} is {id}"));
        }
        if wrong.is_empty() {
            problems.push(format!("{id} does not say what goes wrong"));
        }
        let tests: Vec<(&str, &str)> = here
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|code| code.starts_with("tests/") || code.starts_with("src/"))
            .filter_map(|code| code.split_once("::"))
            .collect();
        for (file, name) in &tests {
            let main = Path::new(file).with_file_name("main.rs");
            let main = read(&main.to_string_lossy()).unwrap_or_default();
            match read(file) {
                Some(source) if is_test(name, &code_of(&source), &main) => {}
                Some(_) => problems.push(format!("{id}: {file} has no test {name}")),
                None => problems.push(format!("{id}: there is no {file}")),
            }
        }
        let is_a_sentence = here.split_whitespace().count() >= 5;
        if tests.is_empty() && (is_bold || !is_a_sentence) {
            problems.push(format!("{id} has no test{}", if is_bold { "" } else { ", and no sentence why" }));
        }
        if is_bold != SEEN_TO_HAPPEN.contains(&number) {
            problems.push(format!("{id} is {}", if is_bold { "bold" } else { "not bold" }));
        }
    }
    problems
}

#[test]
fn every_hazard_has_a_test_that_is_there_or_a_reason() {
    let page = fs::read_to_string(repository().join(HAZARDS)).unwrap();
    let problems = problems_of_hazards(&page, |file| fs::read_to_string(repository().join(file)).ok());
    assert!(problems.is_empty(), "{HAZARDS}: {problems:#?}");
}

// The rules above must be able to fail.

#[test]
fn a_hazard_without_a_test_or_a_reason_is_found() {
    let row = |number: usize| match SEEN_TO_HAPPEN.contains(&number) {
        true => format!("| **H{number:02}** | it breaks | `tests/a.rs::it_holds` |\n"),
        false => format!("| H{number:02} | it breaks | it cannot, as it is made of stone |\n"),
    };
    let read = |file: &str| match file {
        "tests/a.rs" => Some("#[test]\nfn it_holds() {}\nfn helper() {}\n".to_owned()),
        "tests/b/part.rs" => Some("pub fn it_holds(backend: u8) {}\n".to_owned()),
        "tests/b/main.rs" => Some("on_both! {\n    part:\n        it_holds;\n}\n".to_owned()),
        _ => None,
    };
    let sound: String = (1..=LAST_HAZARD).map(row).collect();
    assert_eq!(problems_of_hazards(&sound, read), [""; 0]);
    let changes = [
        ("| H01 | it breaks | it cannot, as it is made of stone |\n", "", "78 rows"),
        ("| H02 |", "| H03 |", "row 2 is H03"),
        ("| H04 | it breaks |", "| H04 | |", "does not say"),
        ("| H05 | it breaks | it cannot, as it is made of stone |", "| H05 | it breaks | |", "no sentence"),
        ("`tests/a.rs::it_holds`", "it cannot, as it is made of stone", "H06 has no test"),
        ("`tests/a.rs::it_holds`", "`tests/a.rs::it_held`", "no test it_held"),
        ("`tests/a.rs::it_holds`", "`tests/a.rs::helper`", "no test helper"),
        ("`tests/a.rs::it_holds`", "`tests/c.rs::it_holds`", "no tests/c.rs"),
        ("| **H07** |", "| H07 |", "H07 is not bold"),
        ("stone |", "stone | so |", "4 cells"),
    ];
    for (from, to, problem) in changes {
        let found = problems_of_hazards(&sound.replacen(from, to, 1), read);
        assert!(found.iter().any(|found| found.contains(problem)), "{problem:?} in {found:?}");
    }
    let by_macro = sound.replace("`tests/a.rs::it_holds`", "`tests/b/part.rs::it_holds`");
    assert_eq!(problems_of_hazards(&by_macro, read), [""; 0]);
}

#[test]
fn code_is_told_from_comments_and_strings() {
    let source =
        "a /* b /* c */ d */ e // f\n\"g \\\" h\" i 'j' '\\'' 'k r\"l\" r#\"m \" n\"# o '\\u{41}' unsafe_p br\"q\"";
    let words: Vec<_> = code_of(source).split_whitespace().map(String::from).collect();
    assert_eq!(words, ["a", "e", "i", "'k", "o", "unsafe_p", "b"].map(String::from), "{:?}", code_of(source));
    assert_eq!(code_of("x\n// y\n\"\n\"z").lines().count(), 4);
}

#[test]
fn paths_are_found_however_they_are_written() {
    let code = code_of(
        "use crate::{os::futex::{self, wait}, Error}; fn f() { crate :: segment::x(); unsafe { nix::y() } } // libc::z",
    );
    let paths = paths_in(&code);
    for path in
        ["crate::os::futex::self", "crate::os::futex::wait", "crate::Error", "crate::segment::x", "nix::y", "unsafe"]
    {
        assert!(paths.contains(path), "{path} in {paths:?}");
    }
    assert!(!paths.iter().any(|path| path.contains("libc")), "{paths:?}");
    assert!(
        is_in("crate::os", "crate::os") && is_in("crate::os::x", "crate::os") && !is_in("crate::osmosis", "crate::os")
    );
    assert_eq!(absolute("src/os/file.rs", "super::super::segment::x"), "crate::segment::x");
    assert_eq!(absolute("src/os/mod.rs", "super::segment::x"), "crate::segment::x");
    assert_eq!(absolute("src/os/file.rs", "crate::segment"), "crate::segment");
}

#[test]
fn links_and_private_paths_are_found() {
    let text = "see [a](b.md#c) and [d](e/f.md \"title\"), `[g](h)`\n```\n[i](j)\n```\n[k]: l.md\n";
    assert_eq!(links(text), ["b.md#c", "e/f.md", "l.md"]);
    let home = format!("/{}/somebody/src", "home");
    assert_eq!(private_paths(&home).len(), 1);
    assert!(private_paths("/dev/shm/hostlock-1000/myapp and /tmp/x").is_empty());
}
