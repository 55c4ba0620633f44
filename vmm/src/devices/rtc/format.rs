//! How the time registers hold numbers (register B: data mode, 24/12), and the alarm that is compared with them.

/// The format that register B chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    /// Binary instead of packed BCD.
    pub(super) binary: bool,
    /// Hours 0 to 23 instead of 1 to 12 with bit 7 for the afternoon.
    pub(super) hours_24: bool,
}

const AFTERNOON: u8 = 0x80;

impl Format {
    /// A number from 0 to 99 as a register holds it.
    pub(super) fn encode(self, number: u8) -> u8 {
        if self.binary {
            number
        } else {
            ((number / 10 % 10) << 4) | (number % 10)
        }
    }

    /// The number that a register holds; invalid BCD gives a number up to 165.
    pub(super) fn decode(self, value: u8) -> u8 {
        if self.binary {
            value
        } else {
            (value >> 4) * 10 + (value & 0x0f)
        }
    }

    /// An hour from 0 to 23 as the register holds it.
    pub(super) fn encode_hour(self, hour: u8) -> u8 {
        if self.hours_24 {
            return self.encode(hour);
        }
        let of_half = match hour % 12 {
            0 => 12,
            of_half => of_half,
        };
        let half = if hour >= 12 { AFTERNOON } else { 0 };
        self.encode(of_half) | half
    }

    /// The hour that a register holds.
    pub(super) fn decode_hour(self, value: u8) -> u8 {
        if self.hours_24 {
            return self.decode(value);
        }
        let half = if value & AFTERNOON != 0 { 12 } else { 0 };
        self.decode(value & !AFTERNOON) % 12 + half
    }
}

/// When the alarm goes off: each part a number, which may be out of range, or `None` for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alarm {
    pub(super) hour: Option<u8>,
    pub(super) minute: Option<u8>,
    pub(super) second: Option<u8>,
}

impl Alarm {
    /// The alarm as its registers say; 0xc0 and above means any.
    pub(super) fn new(format: Format, hour: u8, minute: u8, second: u8) -> Self {
        let part =
            |value: u8, decode: fn(Format, u8) -> u8| (value < 0xc0).then(|| decode(format, value));
        Self {
            hour: part(hour, Format::decode_hour),
            minute: part(minute, Format::decode),
            second: part(second, Format::decode),
        }
    }

    /// The first second after `seconds` at which it goes off; `None` if it never does.
    pub(super) fn after(&self, seconds: i64) -> Option<i64> {
        const DAY_S: i64 = 86_400;
        let from = seconds.saturating_add(1);
        let of_day = from.rem_euclid(DAY_S);
        let midnight = from - of_day;
        self.first_in_day(of_day)
            .map(|at| midnight + at)
            .or_else(|| self.first_in_day(0).map(|at| midnight + DAY_S + at))
    }

    /// The first match at or after second `from` of a day.
    fn first_in_day(&self, from: i64) -> Option<i64> {
        let matches =
            |part: Option<u8>, value: i64| part.is_none_or(|part| i64::from(part) == value);
        let hours = (from / 3600..24).filter(|hour| matches(self.hour, *hour));
        hours
            .flat_map(|hour| {
                let first = (from - hour * 3600).max(0) / 60;
                (first..60)
                    .filter(|minute| matches(self.minute, *minute))
                    .map(move |minute| hour * 3600 + minute * 60)
            })
            .find_map(|minute_at| {
                let first = (from - minute_at).max(0);
                let second = self.second.map_or(first, i64::from);
                (second >= first && second < 60).then_some(minute_at + second)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BCD: Format = Format {
        binary: false,
        hours_24: true,
    };

    #[test]
    fn numbers_survive_each_format() {
        for (binary, hours_24) in [(false, false), (false, true), (true, false), (true, true)] {
            let format = Format { binary, hours_24 };
            for number in 0..100 {
                assert_eq!(format.decode(format.encode(number)), number);
            }
            for hour in 0..24 {
                assert_eq!(format.decode_hour(format.encode_hour(hour)), hour);
            }
            for value in 0..=u8::MAX {
                format.decode(value);
                format.decode_hour(value);
                format.encode(value);
                format.encode_hour(value);
            }
        }
        assert_eq!(BCD.encode(59), 0x59);
        let twelve = Format {
            binary: false,
            hours_24: false,
        };
        assert_eq!(twelve.encode_hour(0), 0x12);
        assert_eq!(twelve.encode_hour(12), 0x92);
        assert_eq!(twelve.encode_hour(23), 0x91);
    }

    #[test]
    fn the_next_alarm_is_the_one_a_search_finds() {
        let parts = [
            None,
            Some(0),
            Some(7),
            Some(23),
            Some(59),
            Some(60),
            Some(165),
        ];
        let starts = [
            -1,
            0,
            1,
            7 * 3600 + 7 * 60 + 6,
            7 * 3600 + 7 * 60 + 7,
            86_398,
            86_399,
        ];
        for (hour, minute, second) in parts
            .iter()
            .flat_map(|h| parts.iter().flat_map(move |m| parts.map(|s| (*h, *m, s))))
        {
            let alarm = Alarm {
                hour,
                minute,
                second,
            };
            let matches = |at: &i64| {
                let of_day = at.rem_euclid(86_400);
                hour.is_none_or(|h| i64::from(h) == of_day / 3600)
                    && minute.is_none_or(|m| i64::from(m) == of_day / 60 % 60)
                    && second.is_none_or(|s| i64::from(s) == of_day % 60)
            };
            for start in starts {
                let expected = (start + 1..=start + 86_400).find(matches);
                assert_eq!(alarm.after(start), expected, "{alarm:?} after {start}");
            }
        }
    }

    #[test]
    fn registers_from_0xc0_on_mean_any() {
        let any = Alarm::new(BCD, 0xc0, 0xff, 0xc5);
        assert_eq!(any.after(1000), Some(1001));
        let alarm = Alarm::new(BCD, 0x23, 0xc0, 0x30);
        assert_eq!(alarm.after(0), Some(23 * 3600 + 30));
    }
}
