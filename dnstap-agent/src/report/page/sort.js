// A click on a column's head sorts the rows by it: first the largest number or the first text, then the other way.
for (const table of document.querySelectorAll('table')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, at) => {
    const button = document.createElement('button');
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener('click', () => {
      const rows = [...table.tBodies[0].rows];
      const text = row => row.cells[at].textContent;
      const number = row => parseFloat(text(row).replace(/^>/, ''));
      const numbers = rows.every(row => text(row) === '-' || !isNaN(number(row)));
      const first = numbers ? 'descending' : 'ascending';
      const other = numbers ? 'ascending' : 'descending';
      const order = head.ariaSort === first ? other : first;
      const compare = numbers
        ? (a, b) => (number(a) || 0) - (number(b) || 0)
        : (a, b) => text(a).localeCompare(text(b));
      rows.sort((a, b) => order === 'ascending' ? compare(a, b) : compare(b, a));
      heads.forEach(one => one.ariaSort = null);
      head.ariaSort = order;
      table.tBodies[0].append(...rows);
    });
  });
}
