//! The little linear algebra that the fits need, in double precision.

/// A dense matrix, row by row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Matrix {
    pub cols: usize,
    pub data: Vec<f64>,
}

impl Matrix {
    pub(crate) fn zeros(rows: usize, cols: usize) -> Self {
        Self { cols, data: vec![0.0; rows * cols] }
    }

    /// Rows of equal length.
    pub(crate) fn from_rows<'a>(rows: impl Iterator<Item = &'a [f32]>, cols: usize) -> Self {
        Self { cols, data: rows.flat_map(|row| row.iter().map(|&x| f64::from(x))).collect() }
    }

    pub(crate) fn rows(&self) -> usize {
        self.data.len().checked_div(self.cols).unwrap_or(0)
    }

    pub(crate) fn row(&self, index: usize) -> &[f64] {
        &self.data[index * self.cols..][..self.cols]
    }

    pub(crate) fn row_mut(&mut self, index: usize) -> &mut [f64] {
        &mut self.data[index * self.cols..][..self.cols]
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &[f64]> {
        self.data.chunks_exact(self.cols.max(1))
    }

    /// The rows of those numbers.
    pub(crate) fn pick(&self, rows: &[usize]) -> Self {
        Self { cols: self.cols, data: rows.iter().flat_map(|&row| self.row(row).iter().copied()).collect() }
    }

    /// Mean of the rows.
    pub(crate) fn mean(&self) -> Vec<f64> {
        let mut mean = vec![0.0; self.cols];
        for row in self.iter() {
            add(&mut mean, row, 1.0 / self.rows() as f64);
        }
        mean
    }

    /// The matrix without its rows' mean.
    pub(crate) fn centred(mut self, mean: &[f64]) -> Self {
        for row in self.data.chunks_exact_mut(self.cols.max(1)) {
            add(row, mean, -1.0);
        }
        self
    }

    /// `self^T other`.
    pub(crate) fn transposed_times(&self, other: &Self) -> Self {
        let mut product = Self::zeros(self.cols, other.cols);
        for (left, right) in self.iter().zip(other.iter()) {
            for (to, &x) in product.data.chunks_exact_mut(other.cols.max(1)).zip(left) {
                if x != 0.0 {
                    add(to, right, x);
                }
            }
        }
        product
    }
}

/// `to += factor * from`.
pub(crate) fn add(to: &mut [f64], from: &[f64], factor: f64) {
    for (t, f) in to.iter_mut().zip(from) {
        *t += factor * f;
    }
}

/// `values *= factor`.
pub(crate) fn scale(values: &mut [f64], factor: f64) {
    for value in values {
        *value *= factor;
    }
}

/// Inner product, in lanes that the compiler can put into registers.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().min(b.len());
    let (a, a_rest) = a[..n].as_chunks::<8>();
    let (b, b_rest) = b[..n].as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for ((lane, x), y) in lanes.iter_mut().zip(a).zip(b) {
            *lane += x * y;
        }
    }
    lanes.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f64>()
}

/// Solves `(a + ridge I) x = b` for a symmetric positive semidefinite `a` and a positive `ridge`, by Cholesky's
/// decomposition.
pub(crate) fn solve(mut a: Matrix, ridge: f64, mut b: Matrix) -> Matrix {
    let n = a.cols;
    for i in 0..n {
        a.row_mut(i)[i] += ridge;
    }
    for i in 0..n {
        let (done, rest) = a.data.split_at_mut(i * n);
        let row = &mut rest[..n];
        for (j, above) in done.chunks_exact(n).enumerate() {
            row[j] = (row[j] - dot(&row[..j], &above[..j])) / above[j];
        }
        // Rounding can take the last digits of a pivot, never more than the ridge put there.
        row[i] = (row[i] - dot(&row[..i], &row[..i])).max(f64::EPSILON * ridge).sqrt();
    }
    for i in 0..n {
        let (done, rest) = b.data.split_at_mut(i * b.cols);
        let row = &mut rest[..b.cols];
        for (above, &l) in done.chunks_exact(b.cols).zip(a.row(i)) {
            add(row, above, -l);
        }
        scale(row, 1.0 / a.data[i * n + i]);
    }
    for i in (0..n).rev() {
        let (rest, done) = b.data.split_at_mut((i + 1) * b.cols);
        let row = &mut rest[i * b.cols..];
        for (offset, below) in done.chunks_exact(b.cols).enumerate() {
            add(row, below, -a.data[(i + 1 + offset) * n + i]);
        }
        scale(row, 1.0 / a.data[i * n + i]);
    }
    b
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_solution_solves(values in prop::collection::vec(-2.0_f64..2.0, 24), ridge in 0.1_f64..10.0) {
            let x = Matrix { cols: 4, data: values };
            let gram = x.transposed_times(&x);
            let b = Matrix { cols: 2, data: x.data[..8].to_vec() };
            let solved = solve(gram.clone(), ridge, b.clone());
            for i in 0..4 {
                for j in 0..2 {
                    let mut sum = ridge * solved.row(i)[j];
                    for k in 0..4 {
                        sum += gram.row(i)[k] * solved.row(k)[j];
                    }
                    prop_assert!((sum - b.row(i)[j]).abs() < 1e-8, "{sum} {}", b.row(i)[j]);
                }
            }
        }
    }

    #[test]
    fn the_mean_is_taken_off() {
        let x = Matrix { cols: 2, data: vec![1.0, 2.0, 3.0, 6.0] };
        assert_eq!(x.mean(), [2.0, 4.0]);
        assert_eq!(x.clone().centred(&[2.0, 4.0]).data, [-1.0, -2.0, 1.0, 2.0]);
    }
}
