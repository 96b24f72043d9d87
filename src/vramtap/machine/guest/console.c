/* Console: a grid of characters with a caret, which knows which cells have changed. */
#include "console.h"

#include "canvas.h"
#include "font.h"

#define INK 0xD5E1EA
#define PROMPT_INK 0x5FC9A5
#define CARET 0xF2B950
#define TAB 8
#define CARET_BIT 0x80u
#define PROMPT '\x01' /* in a cell: the prompt's sign */
#define PROMPT_SIGN '>'

static int left, above, columns, rows, column, row;
static int typed; /* characters that backspace can delete */
static bool caret;
static char cells[CONSOLE_MAX_ROWS][CONSOLE_MAX_COLUMNS];
static uint8_t shown[CONSOLE_MAX_ROWS][CONSOLE_MAX_COLUMNS];

static uint8_t appearance(int y, int x)
{
    uint8_t cell = (uint8_t)cells[y][x];
    return caret && y == row && x == column ? cell | CARET_BIT : cell;
}

static void clear_row(int y)
{
    for (int x = 0; x < columns; x++)
        cells[y][x] = ' ';
}

static void new_line(void)
{
    column = 0;
    if (row + 1 < rows) {
        row++;
        return;
    }
    for (int y = 0; y + 1 < rows; y++)
        for (int x = 0; x < columns; x++)
            cells[y][x] = cells[y + 1][x];
    clear_row(rows - 1);
}

static void put_cell(char character)
{
    cells[row][column] = character;
    if (++column == columns)
        new_line();
}

static void prompt(void)
{
    typed = 0;
    put_cell(PROMPT);
    put_cell(' ');
}

void console_start(int x, int y, int wanted_columns, int wanted_rows)
{
    left = x;
    above = y;
    columns = wanted_columns;
    rows = wanted_rows;
    for (row = 0; row < rows; row++)
        clear_row(row);
    row = column = 0;
    caret = true;
}

void console_put(char character)
{
    if (character == '\n')
        new_line();
    else if (character == '\t')
        do
            put_cell(' ');
        while (column % TAB);
    else
        put_cell(character);
}

void console_print(const char *text)
{
    for (; *text; text++)
        console_put(*text);
}

void console_type(char character)
{
    if (character == '\b') {
        if (!typed)
            return;
        typed--;
        if (column == 0) {
            row--;
            column = columns;
        }
        cells[row][--column] = ' ';
    } else if (character == '\n') {
        if (column)
            new_line();
        prompt();
    } else {
        /* Count only while the prompt has not scrolled away. */
        int cells_before = typed;
        put_cell(character == '\t' ? ' ' : character);
        if (cells_before < columns * (rows - 1) - 2)
            typed++;
    }
}

void console_show_caret(bool to_show)
{
    caret = to_show;
}

bool console_caret_is_shown(void)
{
    return caret;
}

static struct rect cell_area(int y, int x0, int x1)
{
    return (struct rect){left + x0 * FONT_WIDTH, above + y * FONT_HEIGHT, left + x1 * FONT_WIDTH,
                         above + (y + 1) * FONT_HEIGHT};
}

void console_changes(void (*changed)(struct rect))
{
    for (int y = 0; y < rows; y++) {
        int first = columns, last = -1;
        for (int x = 0; x < columns; x++)
            if (shown[y][x] != appearance(y, x)) {
                shown[y][x] = appearance(y, x);
                first = x < first ? x : first;
                last = x;
            }
        if (last >= 0)
            changed(cell_area(y, first, last + 1));
    }
}

void console_paint(void)
{
    struct rect grid = {left, above, left + columns * FONT_WIDTH, above + rows * FONT_HEIGHT};
    struct rect part = rect_within(grid, canvas_clipped());
    if (rect_empty(part))
        return;
    int x0 = (part.x0 - left) / FONT_WIDTH, x1 = (part.x1 - left + FONT_WIDTH - 1) / FONT_WIDTH;
    int y0 = (part.y0 - above) / FONT_HEIGHT, y1 = (part.y1 - above + FONT_HEIGHT - 1) / FONT_HEIGHT;
    for (int y = y0; y < y1; y++)
        for (int x = x0; x < x1; x++) {
            struct rect cell = cell_area(y, x, x + 1);
            char character = (char)(appearance(y, x) & ~CARET_BIT);
            bool sign = character == PROMPT, here = appearance(y, x) & CARET_BIT;
            if (here)
                canvas_fill(cell, CARET);
            canvas_glyph(cell.x0, cell.y0, sign ? PROMPT_SIGN : character,
                         here ? CONSOLE_PAPER : sign ? PROMPT_INK : INK);
        }
}
