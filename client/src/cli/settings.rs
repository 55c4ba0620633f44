//! Actions as typed on the command line: `KEY=VALUE` in, the interface's `Actions` out. A wrong one
//! is refused with QEMU's text.

use std::str::FromStr;

use crate::{
    names::Spelled,
    v1::{Actions, PanicAction, RebootAction, ShutdownAction, WatchdogAction},
};

/// One action that was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    Reboot(RebootAction),
    Shutdown(ShutdownAction),
    Panic(PanicAction),
    Watchdog(WatchdogAction),
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((key, value)) = text.split_once('=') else {
            return Err("expected KEY=VALUE, for example panic=pause".to_owned());
        };
        match key {
            "reboot" => read(key, value).map(Self::Reboot),
            "shutdown" => read(key, value).map(Self::Shutdown),
            "panic" => read(key, value).map(Self::Panic),
            "watchdog" => read(key, value).map(Self::Watchdog),
            _ => Err(format!("Parameter '{key}' is unexpected")),
        }
    }
}

fn read<A: Spelled>(key: &str, value: &str) -> Result<A, String> {
    A::from_spelling(value)
        .ok_or_else(|| format!("Parameter '{key}' does not accept value '{value}'"))
}

/// Puts settings together; the last one of a key counts, and what is not set stays unspecified.
pub(super) fn collect(settings: &[Setting]) -> Actions {
    let mut actions = Actions::default();
    for setting in settings {
        match *setting {
            Setting::Reboot(action) => actions.set_reboot(action),
            Setting::Shutdown(action) => actions.set_shutdown(action),
            Setting::Panic(action) => actions.set_panic(action),
            Setting::Watchdog(action) => actions.set_watchdog(action),
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_qemus_spellings_and_refuses_in_its_words() {
        assert_eq!(
            "panic=exit-failure".parse(),
            Ok(Setting::Panic(PanicAction::ExitFailure))
        );
        assert_eq!(
            "watchdog=inject-nmi".parse(),
            Ok(Setting::Watchdog(WatchdogAction::InjectNmi))
        );
        let refused = |text: &str| text.parse::<Setting>().unwrap_err();
        assert_eq!(
            refused("panic=poweroff"),
            "Parameter 'panic' does not accept value 'poweroff'"
        );
        assert_eq!(
            refused("reboot="),
            "Parameter 'reboot' does not accept value ''"
        );
        assert_eq!(refused("foo=bar"), "Parameter 'foo' is unexpected");
        assert!(refused("panic").starts_with("expected KEY=VALUE"));
    }

    #[test]
    fn the_last_one_of_a_key_counts() {
        let settings = ["panic=none", "reboot=shutdown", "panic=pause"].map(|s| s.parse().unwrap());
        let actions = collect(&settings);
        assert_eq!(actions.panic(), PanicAction::Pause);
        assert_eq!(actions.reboot(), RebootAction::Shutdown);
        assert_eq!(actions.shutdown(), ShutdownAction::Unspecified);
    }
}
