//! Sections 1.1 to 1.3: both tables, pair by pair, against the specification's data.

use std::collections::HashSet;

use super::fake::Rig;
use crate::runstate::{RunState::*, *};

type Pairs = HashSet<(RunState, RunState)>;

const SEED: &str = include_str!("data/transitions.csv");
const NEWEST: &str = include_str!("data/transitions_newest.csv");

fn pairs(data: &str) -> Pairs {
    let mut pairs = Pairs::new();
    for row in csv::Reader::from_reader(data.as_bytes()).records() {
        let row = row.unwrap();
        let pair = (row[0].parse().unwrap(), row[1].parse().unwrap());
        assert!(pairs.insert(pair), "{pair:?} is there twice");
    }
    pairs
}

fn check(table: TransitionTable, legal: &Pairs) {
    for &from in RunState::ALL {
        for &to in RunState::ALL {
            let listed = legal.contains(&(from, to));
            assert_eq!(table.allows(from, to), listed, "{table:?}: {from} -> {to}");

            let rig = Rig::on(table, from, ActionChange::default());
            let result = rig.main_loop.requests.set_state(to);
            if listed || from == to {
                assert_eq!((result, rig.state()), (Ok(()), to));
            } else {
                let text = format!("invalid runstate transition: '{from}' -> '{to}'");
                assert_eq!(result.unwrap_err().to_string(), text);
                assert_eq!(rig.state(), from, "an illegal set changed the state");
            }
            assert!(rig.trace().is_empty(), "set is silent");
        }
    }
}

#[test]
fn seed_table_holds_the_69_pairs() {
    let legal = pairs(SEED);
    assert_eq!(legal.len(), 69);
    check(TransitionTable::Seed, &legal);
}

#[test]
fn newest_table_holds_the_85_pairs() {
    let legal = pairs(NEWEST);
    assert_eq!(legal.len(), 85);
    check(TransitionTable::Newest, &legal);
}

#[test]
fn newest_table_only_adds() {
    assert!(pairs(NEWEST).is_superset(&pairs(SEED)));
    assert_eq!(TransitionTable::default(), TransitionTable::Seed);
}

#[test]
fn seed_table_keeps_its_invariants() {
    let allows = |from, to| from == to || TransitionTable::Seed.allows(from, to);
    for &state in RunState::ALL {
        let stuck = matches!(state, InternalError | Shutdown);
        assert_eq!(state.needs_reset(), stuck, "{state}");
        assert_eq!(allows(state, Running), !stuck, "{state}");
        let no_reset = matches!(state, Running | SaveVm | Colo);
        assert_eq!(allows(state, Prelaunch), !no_reset, "{state}");
    }
    let only_from = |targets: &[RunState], sources: &[RunState]| {
        for &to in targets {
            for &from in RunState::ALL.iter().filter(|&&from| from != to) {
                let expected = sources.contains(&from);
                assert_eq!(allows(from, to), expected, "{from} -> {to}");
            }
        }
    };
    only_from(&[InMigrate], &[Prelaunch]);
    only_from(&[Debug, RestoreVm, SaveVm], &[Running]);
    let failed = [InternalError, IoError, Shutdown, Watchdog, GuestPanicked];
    only_from(&failed, &[Running, InMigrate]);
    only_from(&[Suspended], &[Running, Debug, InMigrate]);
}
