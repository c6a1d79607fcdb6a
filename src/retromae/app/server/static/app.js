// The workbench. Whatever comes from the server enters the page as text, never as markup.
'use strict';

const $ = (id) => document.getElementById(id);
const TABS = ['search', 'judged', 'live'];
const GRADES = ['wrong', 'partly right', 'a good answer', 'just right'];
const NARROW = matchMedia('(max-width: 52rem)'); // one column at a time, as in style.css
const COLOURS = 5; // of lines in a picture
const REFRESH = 2000; // milliseconds between looks at a run

const state = {
  tabs: TABS, // those that there is something for
  systems: [], // [{name, label}]
  query: '',
  columns: [null, null], // {system, hits} each
  grades: new Map(), // passage id → grade, of the query that is shown
  undo: [], // [{query, passage, before}]
  search: 0, // counts searches, so that a late answer of an earlier one is dropped
  saving: Promise.resolve(), // grades are saved one after the other
};

// ---------------------------------------------------------------- parts of a page

/** An element; attributes that are null or false are left out, children that are strings become text. */
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function say(text) {
  $('status').textContent = text;
}

function complain(text) {
  $('message').textContent = text;
  $('message').hidden = !text;
}

// ---------------------------------------------------------------- the server

/** One request. Errors of the server carry its sentence. */
async function call(path, body) {
  const headers = {};
  const token = sessionStorage.getItem('token');
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? 'GET' : 'POST',
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Error('The server does not answer; is it still running?');
  }
  if (response.status === 401) {
    await login();
    return call(path, body);
  }
  if (!response.ok) {
    const told = await response.json().catch(() => null);
    throw new Error(told?.error?.message ?? `The server answered ${response.status}.`);
  }
  return response;
}

const get = async (path) => (await call(path)).json();
const post = async (path, body) => (await call(path, body)).json();

let asking = null;

/** Ask for the token; several requests may wait for the same answer. */
function login() {
  asking ??= new Promise((resolve) => {
    $('login-form').addEventListener('submit', (event) => {
      event.preventDefault();
      sessionStorage.setItem('token', $('token').value.trim());
      $('token').value = '';
      $('login').close();
      asking = null;
      resolve();
    }, { once: true });
    $('login').showModal();
  });
  return asking;
}

// ---------------------------------------------------------------- search

async function search() {
  const query = $('query').value.trim();
  const turn = ++state.search;
  complain('');
  if (!query) {
    complain('The query is empty; type a question first.');
    return;
  }
  remember(query);
  $('hint').hidden = true;
  const k = Number($('k').value);
  for (const column of [0, 1]) $(`results-${column}`).classList.add('busy');
  try {
    const [judged, ...answers] = await Promise.all([
      get(`/judgements?query=${encodeURIComponent(query)}`),
      ...[0, 1].map((column) => post('/search', { query, k, system: $(`system-${column}`).value, highlight: true })),
    ]);
    if (turn !== state.search) return;
    state.query = query;
    state.grades = new Map(Object.entries(judged.grades));
    state.columns = answers.map((answer) => ({ system: answer.system, ...answer.results[0] }));
    show();
    const counts = state.columns.map((column) => `${column.hits.length} from ${labelOf(column.system)}`);
    say(`Results: ${counts.join(', ')}.`);
    const waiting = document.activeElement === $('query') && $('query').value.trim() === query;
    if (waiting && !NARROW.matches) select(shownColumn(), 0); // ready to be judged
  } catch (error) {
    if (turn === state.search) complain(error.message);
  } finally {
    if (turn === state.search) for (const column of [0, 1]) $(`results-${column}`).classList.remove('busy');
  }
}

function labelOf(name) {
  return state.systems.find((system) => system.name === name)?.label ?? name;
}

function show() {
  for (const place of [0, 1]) {
    const { hits, encode_ms: encode, search_ms: find } = state.columns[place];
    const time = encode + find;
    $(`time-${place}`).textContent = `${time < 10 ? time.toFixed(1) : Math.round(time)} ms`;
    $(`time-${place}`).title = `${encode.toFixed(1)} ms to encode the query, ${find.toFixed(1)} ms to search`;
    const list = $(`results-${place}`);
    list.replaceChildren(...hits.map((hit, row) => card(hit, row, place)));
    if (!hits.length) list.append(el('li', { class: 'none' }, 'Nothing found: no passage has a word of the query.'));
  }
}

function card(hit, row, place) {
  return el(
    'li',
    { class: 'hit', tabindex: row === 0 ? '0' : '-1', 'data-id': hit.id, 'data-row': row, 'data-column': place },
    el('div', { class: 'rank' }, String(row + 1), moved(hit, row, place)),
    el(
      'div',
      {},
      hit.title ? el('h3', {}, ...marked(hit.title, hit.marks.title)) : null,
      el('p', { class: 'text' }, ...marked(hit.text, hit.marks.text)),
      el('div', { class: 'foot' }, reasons(hit), grading(hit, row, place)),
    ),
  );
}

/** How the right column ranks a passage beside the left one; in the left, what the right does not have. */
function moved(hit, row, place) {
  const [left, right] = state.columns;
  if (left.system === right.system) return null;
  const other = (place ? left : right).hits.findIndex((one) => one.id === hit.id);
  if (other < 0) return sign('', place ? 'new' : 'gone', place ? 'not among the results on the left' : 'not among the results on the right');
  if (!place || other === row) return null;
  const by = other - row;
  return by > 0 ? sign('up', `▲ ${by}`, `${by} higher than on the left`) : sign('down', `▼ ${-by}`, `${-by} lower than on the left`);
}

function sign(kind, short, words) {
  return el('span', { class: `move ${kind}`, title: words }, el('span', { 'aria-hidden': 'true' }, short), el('span', { class: 'hidden' }, `, ${words}`));
}

/** Text with some of its words marked; starts and ends count characters, not UTF-16 units. */
function marked(text, spans) {
  const letters = Array.from(text);
  const pieces = [];
  let end = 0;
  for (const [start, stop] of spans) {
    pieces.push(letters.slice(end, start).join(''), el('mark', {}, letters.slice(start, stop).join('')));
    end = stop;
  }
  pieces.push(letters.slice(end).join(''));
  return pieces;
}

function reasons(hit) {
  const { dense, lexical, terms } = hit.why;
  const parts = dense && lexical ? ` = ${number(dense)} dense + ${number(lexical)} words` : '';
  const why = el('p', { class: 'why' }, `${number(hit.score)}${parts}`);
  terms.slice(0, 6).forEach(([term, share], place) => why.append(place ? ', ' : ' · ', el('b', {}, term), ` ${number(share)}`));
  return why;
}

function number(value) {
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString('en');
  return size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : size >= 0.1 || !size ? value.toFixed(2) : value.toPrecision(2);
}

// ---------------------------------------------------------------- grades

function grading(hit, row, place) {
  const buttons = GRADES.map((words, grade) =>
    el('button', {
      class: `g${grade}`,
      type: 'button',
      tabindex: '-1',
      title: `${grade}: ${words}`,
      'aria-label': `Grade ${grade}: ${words}`,
      'aria-pressed': String(state.grades.get(hit.id) === grade),
      onclick: () => judge(hit.id, grade, place, row + 1),
    }, String(grade)));
  return el('div', { class: 'grades', role: 'group', 'aria-label': 'Grade' }, ...buttons);
}

function judge(passage, grade, place, rank) {
  const before = state.grades.get(passage) ?? null;
  if (before === grade) return;
  const entry = { query: state.query, passage, before };
  state.undo.push(entry);
  keep(state.query, passage, grade, before, { system: state.columns[place].system, rank }, entry);
}

function undo() {
  const last = state.undo.pop();
  if (!last) return say('There is no grade to take back.');
  const now = last.query === state.query ? state.grades.get(last.passage) ?? null : null;
  keep(last.query, last.passage, last.before, now, {});
}

/** Show a grade at once and save it; where that fails, show the one before again. */
function keep(query, passage, grade, before, found, entry = null) {
  showGrade(query, passage, grade);
  state.saving = state.saving.then(async () => {
    try {
      showCount((await post('/judgements', { query, passage, grade, ...found })).judgements);
      say(grade === null ? 'Grade taken back.' : `Graded ${grade}: ${GRADES[grade]}. Saved.`);
    } catch (error) {
      showGrade(query, passage, before);
      state.undo = state.undo.filter((one) => one !== entry);
      complain(error.message);
    }
  });
}

function showGrade(query, passage, grade) {
  if (query !== state.query) return;
  if (grade === null) state.grades.delete(passage);
  else state.grades.set(passage, grade);
  for (const hit of document.querySelectorAll('.hit')) {
    if (hit.dataset.id !== passage) continue;
    hit.querySelectorAll('.grades button').forEach((button, place) => button.setAttribute('aria-pressed', String(place === grade)));
  }
}

function showCount(judgements) {
  $('count').textContent = String(judgements);
  $('count').hidden = !judgements;
}

async function showJudged() {
  const summary = await get('/judgements');
  showCount(summary.judgements);
  $('judged-none').hidden = summary.judgements > 0;
  $('judged-some').hidden = !summary.judgements;
  const totals = [['Judgements', summary.judgements], ['Queries', summary.queries.length], ['Queries with an answer', summary.trainable]];
  $('totals').replaceChildren(...totals.map(([name, count]) => el('div', {}, el('dt', {}, name), el('dd', {}, count.toLocaleString('en')))));
  $('totals').hidden = !summary.judgements;
  const grades = summary.grades.map((count, grade) => el('span', {}, el('b', { class: `g${grade}` }, String(grade)), ` ${GRADES[grade]}: ${count.toLocaleString('en')}`));
  $('by-grade').replaceChildren(...grades.reverse());
  $('folder').textContent = summary.folder;
  $('train').textContent = summary.train.replaceAll(' --', ' \\\n  --');
  $('judged-queries').replaceChildren(...summary.queries.map(({ query, judged, best }) =>
    el('tr', {},
      el('td', {}, el('button', { type: 'button', onclick: () => { $('query').value = query; open('search'); search(); } }, query)),
      el('td', {}, String(judged)),
      el('td', {}, String(best)))));
}

async function exportJudged() {
  const file = URL.createObjectURL(await (await call('/judgements/export')).blob());
  el('a', { href: file, download: 'judgements.zip' }).click();
  setTimeout(() => URL.revokeObjectURL(file), 1000);
}

// ---------------------------------------------------------------- keys

function selected() {
  const hit = document.activeElement?.closest?.('.hit');
  return hit ? { hit, row: Number(hit.dataset.row), column: Number(hit.dataset.column) } : null;
}

function select(column, row) {
  const hits = $(`results-${column}`).querySelectorAll('.hit');
  if (!hits.length) return;
  const hit = hits[Math.max(0, Math.min(row, hits.length - 1))];
  uncover(column);
  for (const one of hits) one.tabIndex = one === hit ? 0 : -1;
  hit.focus({ preventScroll: true });
  hit.scrollIntoView({ block: 'nearest' });
}

/** On a phone one column is shown at a time. */
function uncover(column) {
  document.querySelector('.columns').dataset.shown = String(column);
  for (const place of [0, 1]) $(`show-${place}`).setAttribute('aria-pressed', String(place === column));
}

function shownColumn() {
  const hiddenLeft = NARROW.matches && document.querySelector('.columns').dataset.shown === '1';
  return hiddenLeft || !$('results-0').querySelector('.hit') ? 1 : 0;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  const field = event.target.closest('input, select, textarea');
  if (field) {
    if (event.key === 'Escape') field.blur();
    return;
  }
  const here = selected();
  const actions = {
    '/': () => { open('search'); $('query').select(); },
    '?': () => $('help').showModal(),
    u: undo,
    j: () => (here ? select(here.column, here.row + 1) : select(shownColumn(), 0)),
    k: () => (here ? select(here.column, here.row - 1) : select(shownColumn(), 0)),
    h: () => select(0, here?.row ?? 0),
    l: () => select(1, here?.row ?? 0),
  };
  if (here) Object.assign(actions, { ArrowDown: actions.j, ArrowUp: actions.k, ArrowLeft: actions.h, ArrowRight: actions.l });
  if (here && /^[0-3]$/.test(event.key)) actions[event.key] = () => judge(here.hit.dataset.id, Number(event.key), here.column, here.row + 1);
  const action = actions[event.key];
  if (!action) return;
  if ($('panel-search').hidden && !['/', '?'].includes(event.key)) return;
  event.preventDefault();
  action();
}

// ---------------------------------------------------------------- tabs and the address

function open(name) {
  if (!state.tabs.includes(name)) return;
  for (const tab of TABS) {
    const chosen = tab === name;
    $(`tab-${tab}`).setAttribute('aria-selected', String(chosen));
    $(`tab-${tab}`).tabIndex = chosen ? 0 : -1;
    $(`panel-${tab}`).hidden = !chosen;
  }
  complain('');
  if (name === 'judged') attempt(showJudged);
  if (name === 'live') attempt(refreshRuns);
}

async function attempt(action) {
  try {
    await action();
  } catch (error) {
    complain(error.message);
  }
}

function onTabKey(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const at = state.tabs.findIndex((tab) => event.target.id === `tab-${tab}`);
  const next = state.tabs[(at + step + state.tabs.length) % state.tabs.length];
  open(next);
  $(`tab-${next}`).focus();
}

/** The address holds the search, so that it can be kept and sent. */
function remember(query) {
  const parts = new URLSearchParams({ q: query, a: $('system-0').value, b: $('system-1').value, k: $('k').value });
  history.replaceState(null, '', `#${parts}`);
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const choose = (id, value) => {
    if ([...$(id).options].some((option) => option.value === value)) $(id).value = value;
  };
  choose('system-0', parts.get('a'));
  choose('system-1', parts.get('b'));
  choose('k', parts.get('k'));
  $('query').value = parts.get('q') ?? '';
  nameColumns();
  return Boolean($('query').value.trim());
}

function nameColumns() {
  for (const place of [0, 1]) $(`show-${place}`).textContent = labelOf($(`system-${place}`).value);
}

// ---------------------------------------------------------------- live curves

const live = { runs: [], number: null, version: 0, next: 0, records: new Map() };

const CHARTS = [
  ['Loss', (name) => name === 'loss' || /_loss$/.test(name) || live.parts.has(name)],
  ['What [CLS] carries, nats per token', (name) => name === 'eval_cls_use'],
  ['Retrieval', (name) => /^eval_.*@\d+$/.test(name)],
  ['Accuracy', (name) => /_accuracy$/.test(name)],
  ['Tokens a second', (name) => name === 'tokens_per_second'],
  ['Learning rate', (name) => name === 'learning_rate'],
];
const BESIDE = new Set(['step', 'epoch', 'seconds', 'tokens', 'tokens_per_second', 'learning_rate', 'grad_norm']);

async function refreshRuns() {
  live.runs = (await get('/runs')).runs;
  const chosen = $('run').value;
  if (live.runs.length !== $('run').options.length) {
    $('run').replaceChildren(...live.runs.map((run) => el('option', { value: String(run.number) }, run.name)));
    $('run').value = chosen || String(live.runs.at(-1)?.number ?? '');
  }
  $('run').closest('p').hidden = !live.runs.length;
  if (live.runs.length) await refreshCurves();
  else drawRun();
}

/** Look again and again while somebody looks on. */
async function watch() {
  let failed = false;
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, REFRESH));
    if ($('panel-live').hidden || document.hidden) continue;
    try {
      await refreshRuns();
      if (failed) complain('');
      failed = false;
    } catch (error) {
      complain(error.message);
      failed = true;
    }
  }
}

async function refreshCurves() {
  const wanted = Number($('run').value);
  if (wanted !== live.number) Object.assign(live, { number: wanted, version: 0, next: 0, records: new Map() });
  for (;;) {
    const told = await get(`/runs/${wanted}/metrics?after=${live.next}&version=${live.version}`);
    if (wanted !== live.number) return;
    if (told.start !== live.next) live.records.clear(); // written anew by a run that resumed
    for (const record of told.records) {
      live.records.set(record.step, { ...live.records.get(record.step), ...record });
    }
    const seen = live.next;
    Object.assign(live, { version: told.version, next: told.next });
    if (told.next >= told.total) {
      if (told.records.length || !seen) drawRun();
      return;
    }
  }
}

function drawRun() {
  const records = [...live.records.values()].filter((record) => Number.isFinite(record.step)).sort((a, b) => a.step - b.step);
  const names = [...new Set(records.flatMap((record) => Object.keys(record)))];
  live.parts = new Set(records.filter((record) => 'loss' in record)
    .flatMap((record) => Object.keys(record)).filter((name) => !name.startsWith('eval_') && !BESIDE.has(name)));
  const charts = CHARTS.map(([title, fits]) => {
    const own = names.filter((name) => fits(name)).sort((a, b) => a.startsWith('eval_') - b.startsWith('eval_'));
    return chart(title, own.map((name) => line(records, name)).filter((one) => one.points.length));
  }).filter(Boolean);
  $('charts').replaceChildren(...charts);
  $('live-none').hidden = charts.length > 0;
  const last = records.at(-1);
  $('live-facts').textContent = last ? `step ${last.step.toLocaleString('en')}${last.seconds ? `, after ${duration(last.seconds)}` : ''}` : '';
}

function line(records, name) {
  const points = records.filter((record) => Number.isFinite(record[name])).map((record) => ({
    x: record.step, y: record[name], low: record[`${name}_low`], high: record[`${name}_high`],
  }));
  return { name: name.replace(/^eval_/, '').replace(/_(loss|accuracy)$/, ''), held: name.startsWith('eval_'), points: thinned(points) };
}

/** At most some hundred points: a screen shows no more. */
function thinned(points, most = 600) {
  const step = Math.ceil(points.length / most);
  return step <= 1 ? points : points.filter((_, place) => place % step === 0 || place === points.length - 1);
}

function duration(seconds) {
  const minutes = Math.floor(seconds / 60);
  return minutes >= 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : minutes ? `${minutes} min ${Math.round(seconds % 60)} s` : `${Math.round(seconds)} s`;
}

function chart(title, lines) {
  if (!lines.length) return null;
  const mixed = lines.some((one) => !one.held); // held-out lines beside those of the training are dashed
  const colours = [...new Set(lines.map((one) => one.name))];
  for (const one of lines) {
    one.colour = colours.indexOf(one.name) % COLOURS;
    one.dashed = mixed && one.held;
    one.title = one.dashed ? `${one.name}, held out` : one.name;
  }
  const width = Math.min(480, $('charts').clientWidth || 480);
  const [height, left, bottom, top, right] = [220, 46, 24, 10, 10];
  const all = lines.flatMap((one) => one.points);
  const xs = ticks(Math.min(...all.map((p) => p.x)), Math.max(...all.map((p) => p.x)), 5, true);
  const ys = ticks(Math.min(...all.map((p) => p.low ?? p.y)), Math.max(...all.map((p) => p.high ?? p.y)), 4, false);
  const x = (value) => left + ((value - xs.low) / (xs.high - xs.low)) * (width - left - right);
  const y = (value) => height - bottom - ((value - ys.low) / (ys.high - ys.low)) * (height - bottom - top);
  const told = lines.map((one) => `${one.title}: from ${number(one.points[0].y)} to ${number(one.points.at(-1).y)}`);
  const drawing = svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `${title}, steps ${xs.from} to ${xs.to}. ${told.join('; ')}.` });
  for (const value of ys.at) {
    drawing.append(svg('line', { class: 'gridline', x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      svg('text', { x: left - 7, y: y(value) + 4, 'text-anchor': 'end' }, label(value, ys.step)));
  }
  for (const value of xs.at) drawing.append(svg('text', { x: x(value), y: height - 6, 'text-anchor': 'middle' }, value.toLocaleString('en')));
  for (const one of lines) drawing.append(...curve(one, x, y));
  const legend = lines.map((one) => el('span', {}, el('span', { class: `dot ${one.dashed ? 'dashes' : ''} f${one.colour}` }), `${one.title} `, el('b', {}, number(one.points.at(-1).y))));
  return el('figure', {}, el('figcaption', {}, title, el('span', { class: 'legend' }, ...legend)), drawing);
}

function curve(one, x, y) {
  const at = (points, key) => points.map((p) => `${x(p.x).toFixed(1)},${y(p[key]).toFixed(1)}`);
  const parts = [];
  const band = one.points.filter((p) => Number.isFinite(p.low) && Number.isFinite(p.high));
  if (band.length > 1) parts.push(svg('polygon', { class: `band f${one.colour}`, points: [...at(band, 'low'), ...at(band, 'high').reverse()].join(' ') }));
  parts.push(svg('polyline', { class: `line c${one.colour}${one.dashed ? ' dashed' : ''}`, points: at(one.points, 'y').join(' ') }));
  const last = one.points.at(-1);
  parts.push(svg('circle', { class: `f${one.colour}`, cx: x(last.x), cy: y(last.y), r: 2.75 }));
  return parts;
}

/** Round numbers that cover a range: {low, high, step, at, from, to}. */
function ticks(from, to, most, whole) {
  const span = to - from || Math.abs(to) || 1;
  const rough = span / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough * 0.999);
  if (whole) step = Math.max(1, Math.round(step));
  const low = whole ? from : Math.floor(from / step + 1e-9) * step;
  const high = whole ? Math.max(to, from + 1) : Math.max(Math.ceil(to / step - 1e-9) * step, low + step);
  const first = Math.ceil(low / step - 1e-9);
  const at = [];
  for (let n = first; n * step <= high + step * 1e-6; n += 1) at.push(n * step + 0); // and no −0
  return { low, high, step, at, from, to };
}

function label(value, step) {
  if (!value) return '0';
  if (Math.abs(value) >= 10000) return `${number(value / 1000)}k`;
  return Math.abs(value) < 0.001 ? value.toExponential(0) : value.toFixed(Math.max(0, Math.min(4, -Math.floor(Math.log10(step) + 1e-9))));
}

// ---------------------------------------------------------------- start

function chooseSystems(about) {
  const names = about.systems.map((system) => system.name);
  const first = ['before', 'bm25', 'dense'].find((name) => names.includes(name) && name !== about.default) ?? about.default;
  for (const [place, chosen] of [first, about.default].entries()) {
    const list = $(`system-${place}`);
    list.replaceChildren(...about.systems.map((system) => el('option', { value: system.name }, system.label)));
    list.value = chosen;
    list.addEventListener('change', () => { nameColumns(); if ($('query').value.trim()) search(); });
    $(`show-${place}`).addEventListener('click', () => uncover(place));
  }
}

async function start() {
  const about = await get('/about');
  state.systems = about.systems;
  $('name').textContent = about.name;
  document.title = `${about.name} · retromae`;
  $('facts').textContent = about.passages ? `${about.passages.toLocaleString('en')} passages` : '';
  $('ask').addEventListener('submit', (event) => {
    event.preventDefault();
    search();
    if (NARROW.matches) $('query').blur(); // away with a phone's keyboard
  });
  $('k').addEventListener('change', () => { if ($('query').value.trim()) search(); });
  for (const tab of TABS) {
    $(`tab-${tab}`).addEventListener('click', () => open(tab));
    $(`tab-${tab}`).addEventListener('keydown', onTabKey);
  }
  $('help-button').addEventListener('click', () => $('help').showModal());
  $('export').addEventListener('click', () => attempt(exportJudged));
  $('run').addEventListener('change', () => attempt(refreshCurves));
  document.addEventListener('keydown', onKey);
  document.addEventListener('click', (event) => {
    const hit = event.target.closest('.hit');
    if (hit && !event.target.closest('button') && !String(getSelection())) select(Number(hit.dataset.column), Number(hit.dataset.row));
  });
  window.addEventListener('resize', () => { if (!$('panel-live').hidden) drawRun(); });
  watch();
  if (!state.systems.length) { // a run that still trains
    for (const tab of ['search', 'judged']) $(`tab-${tab}`).hidden = true;
    state.tabs = ['live'];
    open('live');
    document.documentElement.dataset.ready = 'yes';
    return;
  }
  chooseSystems(about);
  showCount((await get('/judgements')).judgements);
  if (recall()) await search();
  else $('query').focus();
  document.documentElement.dataset.ready = 'yes';
}

attempt(start);
