//! Computes medians and ranges, and compares two figures.

/// Median and range of measured values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// Summarises values; `None` if there are none.
pub(super) fn summary(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (first, last) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    };
    Some(Summary {
        median,
        min: first,
        max: last,
    })
}

/// Ratio of a figure to another one of the same rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ratio {
    /// Ratio of the medians. It is within the range; a round in which the other figure is near zero does not distort
    /// it.
    pub(super) of_medians: f64,
    /// Smallest and largest ratio of the rounds; `None` if the other figure is not positive in every round.
    pub(super) range: Option<[f64; 2]>,
}

/// Computes the ratio from rounds, each with the figure and the other one. `None` if the other one's median is not
/// positive, because the ratio would mean nothing.
pub(super) fn ratio(rounds: impl IntoIterator<Item = (f64, f64)>) -> Option<Ratio> {
    let rounds: Vec<_> = rounds.into_iter().collect();
    let figure = summary(rounds.iter().map(|(figure, _)| *figure))?;
    let other = summary(rounds.iter().map(|(_, other)| *other))?;
    let each = summary(rounds.iter().map(|(figure, other)| figure / other))?;
    (other.median > 0.0).then(|| Ratio {
        of_medians: figure.median / other.median,
        range: (other.min > 0.0).then_some([each.min, each.max]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_and_the_range_at_the_ends() {
        let of = |values: &[f64]| summary(values.iter().copied()).map(|s| (s.min, s.median, s.max));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some((1.0, 2.0, 3.0)));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), Some((1.0, 2.5, 4.0)));
    }

    #[test]
    fn a_ratio_is_only_as_much_as_the_other_figure_allows() {
        let rounds = [(2.0, 1.0), (3.0, 4.0), (9.0, 2.0)];
        assert_eq!(
            ratio(rounds),
            Some(Ratio {
                of_medians: 1.5,
                range: Some([0.75, 4.5])
            })
        );
        let with = |other| rounds.into_iter().chain([(3.0, other); 2]);
        assert_eq!(
            ratio(with(0.0)),
            Some(Ratio {
                of_medians: 3.0,
                range: None
            })
        );
        assert_eq!(ratio(with(-1.0).skip(2)), None);
        assert_eq!(ratio([]), None);
    }
}
