//! Civil dates: seconds since 1970-01-01 00:00:00 to and from the proleptic Gregorian calendar.

const DAY_S: i64 = 86_400;
/// Days from 0000-03-01, where the 400-year cycle of the leap years starts, to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;
/// Days of 400 years, and of the 100 and 4 years inside it.
const DAYS_400Y: i64 = 146_097;
const DAYS_100Y: i64 = 36_524;
const DAYS_4Y: i64 = 1_461;

/// A moment in civil time. From a guest, the fields may hold anything; from [`DateTime::at`] they are in range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DateTime {
    pub(super) year: i64,
    /// 1 to 12.
    pub(super) month: u8,
    /// 1 to 31.
    pub(super) day: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

impl DateTime {
    /// The moment `seconds` after the epoch.
    pub(super) fn at(seconds: i64) -> Self {
        let of_day = seconds.rem_euclid(DAY_S);
        let days = seconds.div_euclid(DAY_S) + EPOCH_DAYS;
        let cycle = days.div_euclid(DAYS_400Y);
        let day = days.rem_euclid(DAYS_400Y);
        // Years that start in March, so that a leap day is the last of its year.
        let year = (day - day / (DAYS_4Y - 1) + day / DAYS_100Y - day / (DAYS_400Y - 1)) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        // Months since March: each five months have 153 days.
        let month = (5 * day + 2) / 153;
        let after_december = i64::from(month >= 10);
        Self {
            year: 400 * cycle + year + after_december,
            month: small(month + 3 - 12 * after_december),
            day: small(day - days_before_month(month) + 1),
            hour: small(of_day / 3600),
            minute: small(of_day / 60 % 60),
            second: small(of_day % 60),
        }
    }

    /// The seconds from the epoch. Fields that are too large carry over; a month outside 1 to 12 counts as the nearest.
    pub(super) fn seconds(&self) -> i64 {
        let month = i64::from(self.month.clamp(1, 12));
        let before_march = i64::from(month <= 2);
        let year = self.year - before_march;
        let of_cycle = year.rem_euclid(400);
        let days = year.div_euclid(400) * DAYS_400Y + 365 * of_cycle + of_cycle / 4
            - of_cycle / 100
            + days_before_month(month - 3 + 12 * before_march)
            + i64::from(self.day)
            - 1
            - EPOCH_DAYS;
        days * DAY_S
            + i64::from(self.hour) * 3600
            + i64::from(self.minute) * 60
            + i64::from(self.second)
    }

    /// The day of the week, 1 for Sunday to 7.
    pub(super) fn weekday(&self) -> u8 {
        // The epoch was a Thursday.
        small((self.seconds().div_euclid(DAY_S) + 4).rem_euclid(7) + 1)
    }
}

/// Days of a year that starts in March before its month `month`, counted from 0.
fn days_before_month(month: i64) -> i64 {
    (153 * month + 2) / 5
}

/// For values that are known to be small.
fn small(value: i64) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(year: i64, month: u8, day: u8) -> DateTime {
        DateTime {
            year,
            month,
            day,
            hour: 0,
            minute: 0,
            second: 0,
        }
    }

    #[test]
    fn known_moments() {
        assert_eq!(DateTime::at(0), at(1970, 1, 1));
        assert_eq!(DateTime::at(951_782_400), at(2000, 2, 29));
        assert_eq!(DateTime::at(4_107_542_400), at(2100, 3, 1));
        let last = DateTime {
            hour: 23,
            minute: 59,
            second: 59,
            ..at(1969, 12, 31)
        };
        assert_eq!(DateTime::at(-1), last);
        assert_eq!(last.seconds(), -1);
        // A Thursday, a Sunday.
        assert_eq!(at(1970, 1, 1).weekday(), 5);
        assert_eq!(at(2026, 11, 22).weekday(), 1);
    }

    #[test]
    fn every_day_of_a_thousand_years_follows_the_one_before() {
        let mut expected = at(1600, 1, 1);
        let first = expected.seconds();
        for index in 0..366_000 {
            let moment = DateTime::at(first + index * DAY_S);
            assert_eq!(moment, expected);
            assert_eq!(moment.seconds(), first + index * DAY_S);
            let year = expected.year;
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let days = match expected.month {
                2 => 28 + u8::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected.day += 1;
            if expected.day > days {
                expected.day = 1;
                expected.month += 1;
            }
            if expected.month > 12 {
                expected.month = 1;
                expected.year += 1;
            }
        }
    }

    #[test]
    fn fields_out_of_range_carry_over() {
        let mut date = at(2023, 2, 30);
        assert_eq!(DateTime::at(date.seconds()), at(2023, 3, 2));
        date.day = 0;
        assert_eq!(DateTime::at(date.seconds()), at(2023, 1, 31));
        date.month = 0;
        assert_eq!(DateTime::at(date.seconds()), at(2022, 12, 31));
        date = DateTime {
            year: 9999,
            month: 255,
            day: 255,
            hour: 255,
            minute: 255,
            second: 255,
        };
        let moment = DateTime::at(date.seconds());
        assert_eq!(moment.seconds(), date.seconds());
        assert_eq!(moment.year, 10_000);
    }
}
