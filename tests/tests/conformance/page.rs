//! The page with the result, beside the README.

use std::{env, fs, path::PathBuf};

use super::{Verdict, verdicts::Expected};

/// Compares the committed page with the result, or writes it if `VMD_BLESS=1`. What is wrong, if anything.
pub(crate) fn check(verdicts: &[Verdict]) -> Result<(), String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../CONFORMANCE.md");
    let page = page(verdicts);
    if env::var_os("VMD_BLESS").is_some_and(|value| value == "1") {
        fs::write(&path, page).unwrap();
        return Ok(());
    }
    if fs::read_to_string(&path).is_ok_and(|committed| committed == page) {
        return Ok(());
    }
    Err("CONFORMANCE.md is not what this run says; VMD_BLESS=1 writes it".to_owned())
}

fn page(verdicts: &[Verdict]) -> String {
    let count = |word: &str| {
        verdicts
            .iter()
            .filter(|v| word_of(v.expected) == word)
            .count()
    };
    let mut page = format!(
        "# Conformance\n\n\
         QEMU 7.2.22 was recorded in {total} scenarios (`tests/tests/conformance/traces`); each is replayed on a vmd \
         machine over QMP,\nthe requests that must meet in one pass of the main loop (110 to 119) on the run-state \
         core. What comes back is compared\nexactly: all of QMP in order, all that the guest writes, and the end.\n\n\
         **{holds} hold, {pending} are pending, {differs} differ on purpose.** A pending recording is replayed, too, as \
         far as it goes: when it\nbegins to hold, the test fails until it is taken from the list. For one that differs, \
         what vmd does instead is compared as\nexactly (`tests/tests/conformance/instead`).\n\n\
         Written by `VMD_BLESS=1 cargo test -p vmd-tests --test conformance`; without `VMD_BLESS` the test fails if \
         the page is not true.\n\n\
         | recording | what | result | why |\n| --- | --- | --- | --- |\n",
        total = verdicts.len(),
        holds = count("holds"),
        pending = count("pending"),
        differs = count("differs"),
    );
    for verdict in verdicts {
        let why = match verdict.expected {
            Expected::Holds => "",
            Expected::Pending(why) | Expected::Differs(why) => why,
        };
        let row = format!(
            "| {} | {} | {} | {why} |\n",
            verdict.name,
            verdict.description.replace('|', "\\|"),
            word_of(verdict.expected),
        );
        page += &row;
    }
    page
}

/// The verdict in a word.
pub(crate) fn word_of(expected: Expected) -> &'static str {
    match expected {
        Expected::Holds => "holds",
        Expected::Pending(_) => "pending",
        Expected::Differs(_) => "differs",
    }
}
