//! What a key does.

use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers};

use super::model::Order;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Quit,
    /// Stop the process, as Ctrl-Z does.
    Stop,
    /// Draw everything: the terminal has another size, or something else wrote to it.
    Refresh,
    Order(Order),
    Reverse,
    /// So many rows on, or back.
    Scroll(isize),
}

/// What this input asks for.
pub(super) fn action(input: &Event) -> Option<Action> {
    let key = match input {
        Event::Resize(..) => return Some(Action::Refresh),
        Event::Key(key) if key.kind != KeyEventKind::Release => key,
        _ => return None,
    };
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c' | 'd') => Some(Action::Quit),
            KeyCode::Char('z') => Some(Action::Stop),
            KeyCode::Char('l') => Some(Action::Refresh),
            _ => None,
        };
    }
    Some(match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Action::Quit,
        KeyCode::Char('r') => Action::Reverse,
        KeyCode::Up | KeyCode::Char('k') => Action::Scroll(-1),
        KeyCode::Down | KeyCode::Char('j') => Action::Scroll(1),
        KeyCode::PageUp => Action::Scroll(-10),
        KeyCode::PageDown | KeyCode::Char(' ') => Action::Scroll(10),
        KeyCode::Home => Action::Scroll(isize::MIN),
        KeyCode::End => Action::Scroll(isize::MAX),
        KeyCode::Char(key) => Action::Order(Order::of_key(key)?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use crossterm::event::KeyEvent;

    use super::*;

    #[test]
    fn keys_quit_sort_and_scroll() {
        let press = |code| action(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)));
        assert_eq!(press(KeyCode::Char('q')), Some(Action::Quit));
        assert_eq!(
            press(KeyCode::Char('m')),
            Some(Action::Order(Order::Memory))
        );
        assert_eq!(press(KeyCode::Char('x')), None);
        assert_eq!(press(KeyCode::Down), Some(Action::Scroll(1)));
        let with = |key| {
            action(&Event::Key(KeyEvent::new(
                KeyCode::Char(key),
                KeyModifiers::CONTROL,
            )))
        };
        assert_eq!(with('c'), Some(Action::Quit));
        assert_eq!(with('m'), None);
        assert_eq!(action(&Event::Resize(1, 1)), Some(Action::Refresh));
    }
}
