//! Numbers as people read them.

use super::goals::Goal;
use super::measure::Spread;

/// With three digits that count, or all of a whole number.
pub(crate) fn number(value: f64) -> String {
    let magnitude = value.abs();
    if !value.is_finite() {
        return "-".into();
    }
    match magnitude {
        _ if magnitude == 0.0 => "0".into(),
        _ if magnitude < 0.01 => format!("{value:.4}"),
        _ if magnitude < 0.1 => format!("{value:.3}"),
        _ if magnitude < 9.995 => format!("{value:.2}"),
        _ if magnitude < 99.95 => format!("{value:.1}"),
        _ => grouped(value.round() as i64),
    }
}

/// A round number, as short as it goes.
pub(crate) fn round(value: f64) -> String {
    let text = number(value);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

/// 54,000.
pub(crate) fn grouped(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = if value < 0 { "-".to_string() } else { String::new() };
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The median, and in brackets how far the rounds lie apart.
pub(crate) fn spread(spread: Spread) -> String {
    let Spread { median, least, most } = spread;
    if least == most { number(median) } else { format!("{} ({}..{})", number(median), number(least), number(most)) }
}

/// What is to be, and what is.
pub(crate) fn goal(goal: &Goal) -> (String, String) {
    let unit = match goal.unit {
        "x" => " x".to_string(),
        "" => String::new(),
        unit => format!(" {unit}"),
    };
    let bound = match (goal.at_most, goal.at_least) {
        (Some(most), _) => format!("at most {}", number(most)),
        (_, Some(least)) => format!("at least {}", number(least)),
        _ => String::new(),
    };
    let beside = goal.against.map(|peer| format!(" {peer}")).unwrap_or_default();
    let aim = goal.aim.map(|aim| format!(" (aim: {})", number(aim))).unwrap_or_default();
    (
        format!("{}: {bound}{unit}{beside}{aim}", goal.what),
        format!("{}{}", number(goal.value), unit.trim_end_matches(" x")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        let cases = [
            (0.0, "0"),
            (0.00123, "0.0012"),
            (0.0123, "0.012"),
            (0.5, "0.50"),
            (1.254, "1.25"),
            (9.999, "10.0"),
            (54.04, "54.0"),
            (99.5, "99.5"),
            (99.96, "100"),
            (999.6, "1,000"),
            (54_000.4, "54,000"),
            (1_234_567.0, "1,234,567"),
            (f64::NAN, "-"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!([8.0, 0.05, 10.0, 12.5, 2_000.0].map(round), ["8", "0.05", "10", "12.5", "2,000"]);
        let apart = Spread { median: 2.0, least: 1.0, most: 30.0 };
        assert_eq!(spread(apart), "2.00 (1.00..30.0)");
        assert_eq!(spread(Spread { median: 2.0, least: 2.0, most: 2.0 }), "2.00");
    }
}
