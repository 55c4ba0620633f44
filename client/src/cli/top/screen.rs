//! The terminal, taken over for as long as a value lives.

use std::{
    io::{self, Stdout, Write, stdout},
    panic,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crossterm::{
    cursor::{Hide, Show},
    execute,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};
use nix::sys::signal::{Signal, raise};
use ratatui::{Frame, Terminal, backend::CrosstermBackend, layout::Rect};

use crate::cli::failure::Failure;

/// A screen of its own, in raw mode. Dropping it gives the terminal back as it was; a panic does so before it says what
/// went wrong, which would be lost with the screen.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    taken: Arc<AtomicBool>,
}

impl Screen {
    /// Takes the terminal.
    pub(super) fn enter() -> Result<Self, Failure> {
        let terminal = Terminal::new(CrosstermBackend::new(stdout()));
        let terminal = terminal.map_err(|error| unusable(&error))?;
        let taken = Arc::new(AtomicBool::new(false));
        let panicking = taken.clone();
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back(&panicking);
            before(info);
        }));
        let mut screen = Self { terminal, taken };
        screen.again()?;
        Ok(screen)
    }

    /// Takes the terminal again after somebody else had it.
    pub(super) fn again(&mut self) -> Result<(), Failure> {
        self.taken.store(true, Ordering::Relaxed);
        enable_raw_mode()
            .and_then(|()| execute!(stdout(), EnterAlternateScreen, Hide))
            .map_err(|error| unusable(&error))?;
        self.refresh()
    }

    /// Has the next drawing be of everything: nothing on the screen is taken for known.
    pub(super) fn refresh(&mut self) -> Result<(), Failure> {
        // `Terminal::clear` would ask the terminal where its cursor is, and wait for an answer.
        let size = self.terminal.size().map_err(|error| unusable(&error))?;
        let all = Rect::new(0, 0, size.width, size.height);
        self.terminal.resize(all).map_err(|error| unusable(&error))
    }

    /// Gives the terminal to the shell until this process is let go on.
    pub(super) fn stop(&mut self) -> Result<(), Failure> {
        give_back(&self.taken);
        raise(Signal::SIGSTOP).map_err(|error| unusable(&error.into()))?;
        self.again()
    }

    /// Draws what has changed.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> Result<(), Failure> {
        let drawn = self.terminal.draw(draw);
        drawn.map(drop).map_err(|error| unusable(&error))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back(&self.taken);
        if !std::thread::panicking() {
            // The usual one again.
            drop(panic::take_hook());
        }
    }
}

/// Undoes what was done to the terminal, once. If it is gone there is nothing to give back.
fn give_back(taken: &AtomicBool) {
    if taken.swap(false, Ordering::Relaxed) {
        let _ = execute!(stdout(), Show, LeaveAlternateScreen);
        let _ = stdout().flush();
        let _ = disable_raw_mode();
    }
}

pub(super) fn unusable(error: &io::Error) -> Failure {
    Failure::Told(format!("cannot use the terminal: {error}"))
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        fs::File,
        io::Read,
        process::{Command, Stdio},
    };

    use nix::{
        pty::openpty,
        sys::termios::{LocalFlags, tcgetattr},
    };

    use super::*;

    /// Set for the process that panics.
    const PANICS: &str = "VMCTL_TEST_PANICS";

    #[test]
    fn a_panic_gives_the_terminal_back_before_it_is_told() {
        if env::var_os(PANICS).is_some() {
            let _screen = Screen::enter().unwrap();
            panic!("what went wrong");
        }
        let pty = openpty(None, None).unwrap();
        let terminal = File::from(pty.slave);
        let stdio = || Stdio::from(terminal.try_clone().unwrap());
        let name = "cli::top::screen::tests::a_panic_gives_the_terminal_back_before_it_is_told";
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(PANICS, "1")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let mut seen = Vec::new();
        let mut screen = File::from(pty.master);
        let ends = std::thread::spawn(move || child.wait().unwrap());
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&seen).contains("test result") {
            let count = screen.read(&mut buffer).unwrap();
            seen.extend(buffer.iter().take(count));
        }
        assert!(!ends.join().unwrap().success());
        let seen = String::from_utf8_lossy(&seen);
        let at = |text: &str| {
            seen.find(text)
                .unwrap_or_else(|| panic!("no {text:?} in {seen:?}"))
        };
        assert!(at("\x1b[?1049h") < at("\x1b[?1049l"));
        assert!(at("\x1b[?1049l") < at("what went wrong"));
        assert_eq!(seen.matches("\x1b[?1049l").count(), 1, "{seen:?}");
        let flags = tcgetattr(&terminal).unwrap().local_flags;
        assert!(flags.contains(LocalFlags::ICANON | LocalFlags::ECHO));
    }
}
