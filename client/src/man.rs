//! Manual pages, made from the definition of a command line: one for the command, and one for each subcommand, however
//! deep.

use std::{fs, io, path::Path};

use clap::Command;
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};

/// Writes the pages of `command` into a directory, which is made if need be; how many.
///
/// # Errors
/// What the file system says.
pub fn write(command: Command, directory: &Path) -> io::Result<usize> {
    fs::create_dir_all(directory)?;
    // Propagates what is global, and gives each subcommand its whole name.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    pages(&command, directory)
}

fn pages(command: &Command, directory: &Path) -> io::Result<usize> {
    let version = command.get_version().unwrap_or(env!("CARGO_PKG_VERSION"));
    let page = Man::new(command.clone());
    let title = page.get_filename();
    let title = title.trim_end_matches(".1").to_uppercase();
    let page = page.title(title).date("").source(format!("vmd {version}"));
    fs::write(directory.join(page.get_filename()), text(command, &page)?)?;
    let mut count = 1;
    for subcommand in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        count += pages(subcommand, directory)?;
    }
    Ok(count)
}

fn text(command: &Command, page: &Man) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    if let Some(notes) = command.get_after_help() {
        self::notes(&notes.to_string()).to_writer(&mut text)?;
    }
    Ok(text)
}

/// What comes after the options in a help text: `Examples:` and the like become sections, indented lines stay as they
/// are, and the others become paragraphs.
fn notes(notes: &str) -> Roff {
    let mut roff = Roff::new();
    let (mut in_section, mut as_is, mut paragraph) = (false, false, false);
    for line in notes.lines() {
        let indented = line.starts_with(' ');
        if indented != as_is {
            roff.control(if indented { "nf" } else { "fi" }, []);
            as_is = indented;
        }
        if let Some(heading) = heading(line) {
            roff.control("SH", [heading.to_uppercase().as_str()]);
            (in_section, paragraph) = (true, false);
            continue;
        }
        if !in_section {
            roff.control("SH", ["NOTES"]);
            in_section = true;
        }
        if line.is_empty() {
            paragraph = true;
            continue;
        }
        if std::mem::take(&mut paragraph) {
            roff.control("PP", []);
        }
        roff.text([roman(line)]);
    }
    if as_is {
        roff.control("fi", []);
    }
    roff
}

/// The heading, if the line is one: `Exit codes:`, in one word or two.
fn heading(line: &str) -> Option<&str> {
    let words = line.strip_suffix(':')?;
    let is_word = |word: &str| !word.is_empty() && word.chars().all(char::is_alphabetic);
    let short = words.split(' ').all(is_word) && words.split(' ').count() <= 2;
    short.then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_become_sections() {
        let text = "What is said\nfirst.\n\nActions (some):\n  a  .b\n\nExit codes:\n  0  Done\n";
        let page = notes(text).render();
        let lines: Vec<_> = page
            .lines()
            .skip_while(|line| *line != ".SH NOTES")
            .collect();
        assert_eq!(
            lines,
            [
                ".SH NOTES",
                "What is said",
                "first.",
                ".PP",
                "Actions (some):",
                ".nf",
                "  a  .b",
                ".fi",
                ".SH \"EXIT CODES\"",
                ".nf",
                "  0  Done",
                ".fi"
            ]
        );
    }

    #[test]
    fn every_subcommand_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        let command = Command::new("c").about("It does").subcommands([
            Command::new("a").about("One").subcommand(Command::new("b")),
            Command::new("hidden").hide(true),
        ]);
        assert_eq!(write(command, &directory.path().join("new")).unwrap(), 3);
        for name in ["c.1", "c-a.1", "c-a-b.1"] {
            let page = fs::read_to_string(directory.path().join("new").join(name)).unwrap();
            assert!(page.contains(".SH NAME"), "{name}");
        }
    }
}
