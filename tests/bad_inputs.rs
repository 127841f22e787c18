//! The table of bad inputs names tests; this one sees that they are there.

use std::collections::BTreeSet;
use std::path::Path;

/// Names of functions that stand right behind a `#[test]`, in every Rust file below `folder`.
fn tests_below(folder: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the project") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            tests_below(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("source is UTF-8");
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            for (i, _) in lines.iter().enumerate().filter(|(_, line)| **line == "#[test]") {
                let function = lines[i + 1..].iter().find(|line| line.starts_with("fn "));
                let name = function.and_then(|line| line["fn ".len()..].split('(').next());
                into.insert(name.expect("a test is a function").to_owned());
            }
        }
    }
}

#[test]
fn every_test_that_the_table_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = BTreeSet::new();
    tests_below(&root.join("src"), &mut tests);
    tests_below(&root.join("tests"), &mut tests);
    assert!(tests.len() > 200, "the search found {} tests only", tests.len());
    let table = std::fs::read_to_string(root.join("docs/bad-inputs.md")).expect("the table is there");
    let mut numbers = Vec::new();
    for row in table.lines().filter_map(|line| line.strip_prefix("| ")) {
        let columns: Vec<&str> = row.split(" | ").collect();
        let Ok(number) = columns[0].parse::<u32>() else { continue };
        numbers.push(number);
        let held_by = columns.last().expect("four columns").trim_end_matches(" |");
        let names: Vec<&str> = held_by.split(' ').map(|name| name.trim_matches('`')).collect();
        assert!(!names.is_empty() && !names[0].is_empty(), "number {number} is held by nothing");
        for name in names {
            assert!(tests.contains(name), "number {number} names `{name}`, which is no test");
        }
    }
    assert!(numbers.is_sorted() && numbers.len() >= 24, "rows are missing: {numbers:?}");
}
