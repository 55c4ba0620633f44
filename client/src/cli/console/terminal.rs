//! The terminal's raw mode, for as long as a value lives.

use std::io::stdin;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::cli::failure::Failure;

/// Standard input's terminal in raw mode; dropping it gives the terminal back as it was.
pub(in crate::cli) struct RawTerminal {
    before: Termios,
    raw: Termios,
}

impl RawTerminal {
    /// Sets raw mode: every key comes at once, unchanged and without an echo.
    pub(in crate::cli) fn enter() -> Result<Self, Failure> {
        let failed = |error: nix::Error| {
            Failure::Told(format!("cannot set up the terminal: {}", error.desc()))
        };
        let before = tcgetattr(stdin()).map_err(failed)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin(), SetArg::TCSANOW, &raw).map_err(failed)?;
        Ok(Self { before, raw })
    }

    /// Sets raw mode again after something else changed it. What fails here is seen on the screen.
    pub(super) fn again(&self) {
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &self.raw);
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to give back.
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &self.before);
    }
}
