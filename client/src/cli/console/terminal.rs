//! The terminal's raw mode, for as long as a value lives.

use std::io::stdin;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Standard input's terminal in raw mode; dropping it gives the terminal back as it was.
pub(super) struct RawTerminal {
    before: Termios,
    raw: Termios,
}

impl RawTerminal {
    /// Sets raw mode: every key comes at once, unchanged and without an echo.
    pub(super) fn enter() -> nix::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin(), SetArg::TCSANOW, &raw)?;
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
