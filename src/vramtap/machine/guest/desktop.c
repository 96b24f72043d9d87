/* Desktop: a backdrop, a bar with a clock, a console, a window that can be dragged, a mouse pointer. */
#include "desktop.h"

#include "canvas.h"
#include "console.h"
#include "font.h"
#include "picture.h"
#include "pointer.h"
#include "ps2.h"
#include "window.h"

#define BAR_HEIGHT 22
#define BAR 0x0C1218
#define BAR_INK 0xB9C7D2
#define BAR_NAME 0x5FC9A5
#define BACKDROP_TOP 0x2E5266
#define BACKDROP_BOTTOM 0x16202E
#define MARK 0x35606F
#define DOT_STEP 32
#define CLOCK_LETTERS 8
#define CONSOLE_MARGIN 4
#define DAMAGES 64
#define KEPT_VISIBLE 40 /* pixels that stay visible of a window pushed over the edge */

static struct window console_window, picture_window;
static const uint32_t *picture_pixels;
static char clock[CLOCK_LETTERS + 1];
static bool dragging;
static int grab_x, grab_y;
static struct rect damages[DAMAGES];
static int damage_count;

static void damage(struct rect area)
{
    if (damage_count < DAMAGES) {
        damages[damage_count++] = area;
        return;
    }
    struct rect *all = &damages[0];
    for (int i = 0; i <= damage_count; i++) {
        struct rect one = i < damage_count ? damages[i] : area;
        all->x0 = one.x0 < all->x0 ? one.x0 : all->x0;
        all->y0 = one.y0 < all->y0 ? one.y0 : all->y0;
        all->x1 = one.x1 > all->x1 ? one.x1 : all->x1;
        all->y1 = one.y1 > all->y1 ? one.y1 : all->y1;
    }
    damage_count = 1;
}

static struct rect clock_area(void)
{
    int x = screen.width - (CLOCK_LETTERS + 1) * FONT_WIDTH;
    return (struct rect){x, 0, x + CLOCK_LETTERS * FONT_WIDTH, BAR_HEIGHT};
}

static void paint_backdrop(void)
{
    struct rect part = canvas_clipped();
    for (int y = part.y0; y < part.y1; y++) {
        uint32_t line = colour_between(BACKDROP_TOP, BACKDROP_BOTTOM, (uint32_t)y, (uint32_t)screen.height);
        canvas_fill((struct rect){part.x0, y, part.x1, y + 1}, line);
        if (y % DOT_STEP == DOT_STEP / 2) {
            int first = part.x0 - part.x0 % DOT_STEP + DOT_STEP / 2;
            for (int x = first; x < part.x1; x += DOT_STEP)
                canvas_fill((struct rect){x, y, x + 1, y + 1}, MARK);
        }
    }
}

static void paint_bar(void)
{
    canvas_fill((struct rect){0, 0, screen.width, BAR_HEIGHT}, BAR);
    int text_y = (BAR_HEIGHT - FONT_HEIGHT) / 2;
    canvas_fill((struct rect){10, 8, 16, 14}, BAR_NAME);
    canvas_text(24, text_y, "vramtap", BAR_INK);
    canvas_text(clock_area().x0, text_y, clock, BAR_INK);
}

static void paint(struct rect area)
{
    canvas_clip(area);
    struct rect part = canvas_clipped();
    if (rect_empty(part))
        return;
    struct rect within = rect_within(part, console_window.inside);
    bool covered = within.x0 == part.x0 && within.x1 == part.x1 &&
                   within.y0 == part.y0 && within.y1 == part.y1;
    if (!covered) {
        paint_backdrop();
        paint_bar();
        window_paint_frame(&console_window);
    }
    canvas_fill(console_window.inside, CONSOLE_PAPER);
    console_paint();
    window_paint_frame(&picture_window);
    canvas_picture(picture_window.inside, picture_pixels);
    pointer_paint();
    canvas_present(part);
}

void desktop_start(void)
{
    int width = screen.width, height = screen.height;
    int columns = width * 5 / 8 / FONT_WIDTH, rows = height * 5 / 8 / FONT_HEIGHT;
    columns = columns < CONSOLE_MAX_COLUMNS ? columns : CONSOLE_MAX_COLUMNS;
    rows = rows < CONSOLE_MAX_ROWS ? rows : CONSOLE_MAX_ROWS;
    int picture_width = width * 2 / 5 < PICTURE_MAX_WIDTH ? width * 2 / 5 : PICTURE_MAX_WIDTH;
    int picture_height = height * 2 / 5 < PICTURE_MAX_HEIGHT ? height * 2 / 5 : PICTURE_MAX_HEIGHT;

    window_place(&console_window, "console", width / 20, BAR_HEIGHT + height / 20,
                 columns * FONT_WIDTH + 2 * CONSOLE_MARGIN, rows * FONT_HEIGHT + 2 * CONSOLE_MARGIN);
    window_place(&picture_window, "drag me", width * 14 / 25, height / 2, picture_width, picture_height);
    picture_pixels = picture(picture_width, picture_height);
    console_start(console_window.inside.x0 + CONSOLE_MARGIN, console_window.inside.y0 + CONSOLE_MARGIN,
                  columns, rows);
    console_print("This is the guest of vramtap's built-in VM.\n");
    console_print("What you type is echoed here.\n");
    console_type('\n');
    pointer_place(width / 2, height / 2);
    dragging = false;
    clock[0] = 0;
    /* Draw the whole desktop once. */
    console_changes(damage);
    pointer_changes(damage);
    damage_count = 0;
    damage((struct rect){0, 0, width, height});
}

bool desktop_show(void)
{
    console_changes(damage);
    pointer_changes(damage);
    bool any = damage_count > 0;
    for (int i = 0; i < damage_count; i++)
        paint(damages[i]);
    damage_count = 0;
    return any;
}

static void move_picture(int x, int y)
{
    struct rect range = desktop_drag_range();
    x = x < range.x0 ? range.x0 : x >= range.x1 ? range.x1 - 1 : x;
    y = y < range.y0 ? range.y0 : y >= range.y1 ? range.y1 - 1 : y;
    struct rect outside = picture_window.outside;
    if (x == outside.x0 && y == outside.y0)
        return;
    struct rect before = window_reach(&picture_window);
    window_move(&picture_window, x, y);
    struct rect after = window_reach(&picture_window);
    if (rect_empty(rect_within(before, after))) {
        damage(before);
        damage(after);
        return;
    }
    damage((struct rect){
        before.x0 < after.x0 ? before.x0 : after.x0,
        before.y0 < after.y0 ? before.y0 : after.y0,
        before.x1 > after.x1 ? before.x1 : after.x1,
        before.y1 > after.y1 ? before.y1 : after.y1,
    });
}

static void mouse(struct ps2_event event)
{
    static bool was_pressed;
    pointer_move(event.right, event.down);
    struct rect outside = picture_window.outside;
    bool pressed = event.left_button && !was_pressed;
    was_pressed = event.left_button;
    if (pressed && rect_has(window_title(&picture_window), pointer_x(), pointer_y())) {
        dragging = true;
        grab_x = pointer_x() - outside.x0;
        grab_y = pointer_y() - outside.y0;
    }
    dragging = dragging && event.left_button;
    if (dragging)
        move_picture(pointer_x() - grab_x, pointer_y() - grab_y);
}

bool desktop_input(void)
{
    bool any = false;
    for (;;) {
        struct ps2_event event = ps2_next();
        if (event.kind == PS2_NOTHING)
            return any;
        any = true;
        if (event.kind == PS2_CHARACTER)
            desktop_type(event.character);
        else
            mouse(event);
    }
}

void desktop_blink(void)
{
    console_show_caret(!console_caret_is_shown());
}

void desktop_clock(struct time now)
{
    const uint8_t parts[] = {now.hour, now.minute, now.second};
    for (int i = 0; i < 3; i++) {
        clock[3 * i] = (char)('0' + parts[i] / 10);
        clock[3 * i + 1] = (char)('0' + parts[i] % 10);
        clock[3 * i + 2] = i < 2 ? ':' : 0;
    }
    damage(clock_area());
}

void desktop_type(char character)
{
    console_type(character);
    console_show_caret(true);
}

void desktop_print(const char *text)
{
    console_print(text);
}

struct rect desktop_drag_range(void)
{
    struct rect outside = picture_window.outside;
    int width = outside.x1 - outside.x0;
    return (struct rect){KEPT_VISIBLE - width, BAR_HEIGHT, screen.width - KEPT_VISIBLE,
                         screen.height - BAR_HEIGHT};
}

void desktop_drag_to(int x, int y)
{
    move_picture(x, y);
    struct rect title = window_title(&picture_window);
    pointer_place((title.x0 + title.x1) / 2, (title.y0 + title.y1) / 2);
}
