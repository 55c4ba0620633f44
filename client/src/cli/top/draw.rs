//! The picture: a line about all machines, a row for each, the last events, and what the keys do.

use std::time::{Duration, SystemTime};

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Cell, Paragraph, Row, Table},
};

use super::model::{self, Model, Order};
use crate::{
    cli::{progress::elapsed, tone::Tone, view},
    v1::RunState,
};

/// The columns: heading, and how wide. Those with an order are marked when it is theirs.
const COLUMNS: [(&str, Option<Order>, Constraint); 9] = [
    ("NAME", Some(Order::Name), Constraint::Length(NAME)),
    ("STATE", Some(Order::State), Constraint::Length(15)),
    ("TIME", Some(Order::Since), Constraint::Length(8)),
    ("VCPUS", Some(Order::Vcpus), Constraint::Length(6)),
    ("CPU", Some(Order::Cpu), Constraint::Length(6)),
    ("MEMORY", Some(Order::Memory), Constraint::Length(8)),
    ("LAST", Some(Order::Last), Constraint::Length(8)),
    ("EVENTS", Some(Order::Events), Constraint::Length(7)),
    ("END", None, Constraint::Fill(1)),
];

/// How wide the names are at least, and at most.
const NAME: u16 = 12;
const LONG_NAME: u16 = 32;

const KEYS: &str = "q quit  ↑↓ scroll  n name  s state  t time  c vCPUs  p CPU  m memory  l last  e events  r reverse";

/// Draws everything as it is at `now`.
pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model, now: SystemTime) {
    let events = (frame.area().height / 3).min(10);
    let [head, table, pane, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(events),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let rows = model.rows(now);
    frame.render_widget(summary(model, &rows), head);
    // The headings have a line.
    let room = usize::from(table.height.saturating_sub(1));
    let first = model.first.min(rows.len().saturating_sub(room));
    let shown = rows.iter().skip(first).take(room);
    let shown: Vec<_> = shown.map(|row| machine(row, model.colored)).collect();
    let mut widths = COLUMNS.map(|(_, _, width)| width);
    let longest = rows.iter().map(|row| row.vm.name.len()).max();
    let longest = longest.and_then(|longest| longest.try_into().ok());
    let [name, ..] = &mut widths;
    *name = Constraint::Length(longest.unwrap_or(NAME).clamp(NAME, LONG_NAME));
    let table_of = Table::new(shown, widths).header(headings(model));
    frame.render_widget(table_of, table);
    draw_events(frame, pane, model);
    frame.render_widget(Paragraph::new(KEYS).style(faint(model.colored)), keys);
    model.first = first;
}

fn summary<'a>(model: &Model, rows: &[model::Row<'_>]) -> Paragraph<'a> {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    let (mut vcpus, mut memory) = (0_u64, 0_u64);
    for row in rows {
        let state = state(row.vm);
        match counts.iter_mut().find(|(word, _)| *word == state) {
            Some((_, count)) => *count += 1,
            None => counts.push((state, 1)),
        }
        if state != ENDED {
            let definition = row.vm.definition.clone().unwrap_or_default();
            vcpus += u64::from(definition.vcpus.unwrap_or_default());
            memory = memory.saturating_add(definition.memory_bytes.unwrap_or_default());
        }
    }
    counts.sort_unstable();
    let counts: Vec<_> = counts
        .iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    let text = format!(
        "{}: {} machines ({}), {vcpus} vCPUs, {}",
        model.endpoint,
        rows.len(),
        counts.join(", "),
        crate::format_size(memory)
    );
    Paragraph::new(text).style(Style::new().add_modifier(Modifier::BOLD))
}

fn headings<'a>(model: &Model) -> Row<'a> {
    let cells = COLUMNS.map(|(head, order, _)| match order {
        Some(order) if order == model.order => {
            let arrow = if model.reversed { '↑' } else { '↓' };
            Cell::from(format!("{head}{arrow}"))
        }
        _ => Cell::from(head),
    });
    Row::new(cells).style(Style::new().add_modifier(Modifier::REVERSED))
}

fn machine<'a>(row: &model::Row<'_>, colored: bool) -> Row<'a> {
    let status = row.vm.status.clone().unwrap_or_default();
    let [name, _, _, vcpus, memory, _, end] = view::machine(row.vm);
    let age = |age: Option<Duration>| age.map_or_else(|| "-".to_owned(), elapsed);
    let cpu = row
        .cpu
        .map_or_else(view::dash, |percent| format!("{percent}%"));
    let style = style(Tone::of_status(&status), colored);
    Row::new([
        Cell::from(name),
        Cell::from(state(row.vm)).style(style),
        Cell::from(age(row.since)),
        Cell::from(vcpus),
        Cell::from(cpu),
        Cell::from(memory),
        Cell::from(age(row.last)),
        Cell::from(status.vm_seq.to_string()),
        Cell::from(end),
    ])
}

const ENDED: &str = "ended";

/// The run state; of a machine that has ended, that.
fn state(vm: &crate::v1::Vm) -> &'static str {
    let status = vm.status.as_ref();
    match status.and_then(|status| status.end.as_ref()) {
        Some(_) => ENDED,
        None => view::word::<RunState>(status.map_or(0, |status| status.state)),
    }
}

fn draw_events(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let title = match model.lost {
        0 => " events ".to_owned(),
        lost => format!(" events ({lost} came too fast) "),
    };
    let block = Block::new().borders(Borders::TOP).title(title);
    let room = usize::from(block.inner(area).height);
    let skipped = model.events.len().saturating_sub(room);
    let lines = model.events.iter().skip(skipped).map(|event| {
        let [seq, time, vm, name, data, state] = view::event(event);
        let clock = time.split('T').next_back().unwrap_or_default().to_owned();
        let tone = event.kind.as_ref().map_or(Tone::Plain, Tone::of_event);
        let its_state = Tone::of_state(event.state());
        let colored = model.colored;
        Line::from(vec![
            Span::styled(format!("{seq:>7} {clock}  "), faint(colored)),
            Span::raw(format!("{vm:<16}  ")),
            Span::styled(format!("{name:<17}  "), style(tone, colored)),
            Span::styled(format!("{state:<15}  "), style(its_state, colored)),
            Span::raw(data),
        ])
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(block), area);
}

fn faint(colored: bool) -> Style {
    style(Tone::Faint, colored)
}

/// A tone as this terminal has it.
fn style(tone: Tone, colored: bool) -> Style {
    let style = Style::new();
    match tone {
        _ if !colored => style,
        Tone::Plain => style,
        Tone::Good => style.fg(Color::Green),
        Tone::Notice => style.fg(Color::Yellow),
        Tone::Bad => style.fg(Color::Red).add_modifier(Modifier::BOLD),
        Tone::Faint => style.add_modifier(Modifier::DIM),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::cli::top::cpu::tests::sample;
    use crate::v1::{
        Event, ShutdownCause, Vm, VmDefinition, VmEnd, VmStatus,
        event::{Kind, Resume, Stop},
        vm_end,
        watch_vms_response::Update,
    };

    fn vm(name: &str, state: RunState, seq: u64) -> Vm {
        Vm {
            id: format!("id-{name}"),
            name: name.to_owned(),
            definition: Some(VmDefinition {
                memory_bytes: Some(256 << 20),
                vcpus: Some(2),
                ..Default::default()
            }),
            status: Some(VmStatus {
                state: state.into(),
                seq,
                vm_seq: seq,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn event(name: &str, seq: u64, at: u64, state: RunState, kind: Kind) -> Event {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
        Event {
            seq,
            vm_seq: seq,
            time: Some(time.into()),
            vm_id: format!("id-{name}"),
            vm_name: name.to_owned(),
            state: state.into(),
            kind: Some(kind),
            ..Default::default()
        }
    }

    fn model() -> Model {
        let mut model = Model::new("unix:/run/vmd.sock".to_owned(), false);
        let mut ended = vm("batch", RunState::Shutdown, 4);
        if let Some(status) = &mut ended.status {
            status.end = Some(VmEnd {
                kind: vm_end::Kind::Shutdown.into(),
                cause: ShutdownCause::GuestShutdown.into(),
                ..Default::default()
            });
        }
        for vm in [
            vm("web", RunState::Running, 9),
            ended,
            vm("db", RunState::Paused, 7),
        ] {
            model.update(Some(Update::Vm(vm)));
        }
        for (name, seq, at, state, kind) in [
            ("web", 1, 10, RunState::Running, Kind::Resume(Resume {})),
            ("db", 7, 40, RunState::Paused, Kind::Stop(Stop {})),
            ("web", 9, 70, RunState::Running, Kind::Resume(Resume {})),
        ] {
            model.event(event(name, seq, at, state, kind));
        }
        let now = Instant::now();
        for (passed, used) in [(0, [100, 100, 100]), (1, [500, 100, 2080])] {
            let machines = ["id-batch", "id-db", "id-web"];
            let used: Vec<_> = machines.into_iter().zip(used).collect();
            model
                .usage
                .add(sample(now + Duration::from_secs(passed), &used));
        }
        model
    }

    /// The screen, without blanks at the lines' ends.
    fn screen(model: &mut Model, width: u16, height: u16) -> Vec<String> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model, now)).unwrap();
        let buffer = terminal.backend().buffer();
        let cells: Vec<_> = buffer.content().iter().map(|cell| cell.symbol()).collect();
        let lines = cells.chunks(width.into());
        lines
            .map(|line| line.concat().trim_end().to_owned())
            .collect()
    }

    #[test]
    fn the_screen_has_machines_and_events() {
        let seen = screen(&mut model(), 120, 12);
        let expected = [
            "unix:/run/vmd.sock: 3 machines (1 ended, 1 paused, 1 running), 4 vCPUs, 512M",
            "NAME↓        STATE           TIME     VCPUS  CPU    MEMORY   LAST     EVENTS  END",
            "batch        ended           -        2      -      256M     -        4       guest-shutdown, exit 0",
            "db           paused          -        2      0%     256M     1m 00s   7       -",
            "web          running         1m 30s   2      198%   256M     30s      9       -",
        ];
        assert_eq!(seen.get(..5).unwrap(), expected, "{seen:#?}");
        assert!(seen.get(7).unwrap().starts_with(" events "), "{seen:#?}");
        let last = seen.get(10).unwrap();
        assert!(
            last.contains("9 00:01:10.000Z  web") && last.contains("RESUME"),
            "{seen:#?}"
        );
        assert!(seen.get(11).unwrap().starts_with("q quit"));
    }

    #[test]
    fn keys_order_and_scroll() {
        let mut model = model();
        let names = |model: &mut Model, height| -> Vec<String> {
            let lines = screen(model, 120, height);
            let rows = lines
                .iter()
                .skip(2)
                .take_while(|line| !line.starts_with(" events"));
            let names = rows.filter_map(|line| line.split_whitespace().next());
            names.map(str::to_owned).collect()
        };
        model.order_by(Order::Events);
        assert_eq!(names(&mut model, 12), ["web", "db", "batch"]);
        model.order_by(Order::Events);
        assert_eq!(names(&mut model, 12), ["batch", "db", "web"]);
        model.order_by(Order::Cpu);
        assert_eq!(names(&mut model, 12), ["web", "db", "batch"]);
        model.order_by(Order::Last);
        assert_eq!(names(&mut model, 12), ["web", "db", "batch"]);
        // Headings and one row.
        model.order_by(Order::Name);
        assert_eq!(names(&mut model, 6), ["batch"]);
        model.scroll(1);
        assert_eq!(names(&mut model, 6), ["db"]);
        model.scroll(isize::MAX);
        assert_eq!(names(&mut model, 6), ["web"]);
        assert_eq!(model.first, 2, "it stops at the last one");
    }

    #[test]
    fn every_size_can_be_drawn() {
        for width in [1, 2, 20, 79, 300] {
            for height in 1..9 {
                assert_eq!(
                    screen(&mut model(), width, height).len(),
                    usize::from(height)
                );
            }
        }
    }
}
