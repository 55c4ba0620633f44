//! Which events a reader of WatchEvents wants.

use tonic::Status as Refusal;
use vmctl::names::{event_name, event_names};
use vmd_proto::v1::{Event, WatchEventsRequest, event::Kind};

use super::{errors::invalid_field, selector::Selector};

/// What a request asks for; nothing in it is everything.
#[derive(Debug, Default)]
pub(super) struct Filter {
    name: String,
    selector: Selector,
    kinds: Vec<String>,
}

impl Filter {
    /// The filter of a request.
    pub(super) fn of(request: &WatchEventsRequest) -> Result<Self, Refusal> {
        for (index, kind) in request.kinds.iter().enumerate() {
            if !event_names().contains(kind) {
                let problem = format!("there is no event '{kind}'");
                return Err(invalid_field(&format!("kinds[{index}]"), &problem));
            }
        }
        Ok(Self {
            name: request.name.clone(),
            selector: Selector::of_field("label_selector", &request.label_selector)?,
            kinds: request.kinds.clone(),
        })
    }

    /// Whether the reader wants this one.
    pub(super) fn wants(&self, event: &Event) -> bool {
        let is_kind = |kind: &Kind| {
            let name = event_name(kind);
            self.kinds.iter().any(|wanted| wanted == name)
        };
        (self.name.is_empty() || self.name == event.vm_name)
            && (self.kinds.is_empty() || event.kind.as_ref().is_some_and(is_kind))
            && self.selects(event)
    }

    /// Whoever follows machines by their labels sees them come and go, too.
    fn selects(&self, event: &Event) -> bool {
        self.selector.matches(&event.labels)
            || matches!(&event.kind, Some(Kind::Updated(updated)) if self.selector.matches(&updated.labels_before))
    }
}

#[cfg(test)]
mod tests {
    use vmd_proto::v1::event::{Resume, Stop, Updated};

    use super::*;

    fn filter(name: &str, selector: &str, kinds: &[&str]) -> Filter {
        Filter::of(&WatchEventsRequest {
            name: name.to_owned(),
            label_selector: selector.to_owned(),
            kinds: kinds.iter().map(|&kind| kind.to_owned()).collect(),
            ..Default::default()
        })
        .unwrap()
    }

    fn event(env: &str, kind: Kind) -> Event {
        Event {
            vm_name: "a".to_owned(),
            labels: [("env".to_owned(), env.to_owned())].into(),
            kind: Some(kind),
            ..Default::default()
        }
    }

    #[test]
    fn all_that_is_asked_for_must_hold() {
        let (stop, resume) = (
            event("prod", Kind::Stop(Stop {})),
            event("test", Kind::Resume(Resume {})),
        );
        for (name, selector, kinds, expected) in [
            ("", "", &[][..], [true, true]),
            ("a", "", &[], [true, true]),
            ("b", "", &[], [false, false]),
            ("", "env=prod", &[], [true, false]),
            ("", "", &["RESUME"], [false, true]),
            ("", "", &["RESUME", "STOP"], [true, true]),
            ("a", "env=test", &["RESUME", "ENDED"], [false, true]),
            ("a", "env=test", &["STOP"], [false, false]),
        ] {
            let filter = filter(name, selector, kinds);
            let found = [&stop, &resume].map(|event| filter.wants(event));
            assert_eq!(found, expected, "{filter:?}");
        }
    }

    #[test]
    fn an_update_is_told_to_those_who_lose_the_machine() {
        let updated = Updated {
            labels_before: [("env".to_owned(), "test".to_owned())].into(),
            ..Default::default()
        };
        let updated = event("prod", Kind::Updated(updated));
        assert!(filter("", "env=prod", &[]).wants(&updated));
        assert!(filter("", "env=test", &["UPDATED"]).wants(&updated));
        assert!(!filter("", "env=dev", &[]).wants(&updated));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let kinds = WatchEventsRequest {
            kinds: vec!["STOP".to_owned(), "stop".to_owned()],
            ..Default::default()
        };
        let refusal = Filter::of(&kinds).unwrap_err();
        assert_eq!(refusal.message(), "kinds[1]: there is no event 'stop'");
        let selector = WatchEventsRequest {
            label_selector: "a in".to_owned(),
            ..Default::default()
        };
        let refusal = Filter::of(&selector).unwrap_err();
        assert!(
            refusal.message().starts_with("label_selector: at 4: "),
            "{refusal}"
        );
    }
}
