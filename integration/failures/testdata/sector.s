# A guest of one sector that does what it is told on the first serial port, a letter each:
# p power off, s suspend to RAM, r reset, P panic, w let the watchdog bite, d read sector 9 of the disk.
# It says B as it starts, and repeats each letter before it obeys. From `as --32` and `objcopy -O binary -j .text`.
.code16
_start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7c00, %sp
    mov $'B', %al
    jmp say
next:
    mov $0x3fd, %dx
    inb %dx, %al
    test $1, %al
    jz next
    mov $0x3f8, %dx
    inb %dx, %al
say:
    mov $0x3f8, %dx
    outb %al, %dx
    cmp $'d', %al
    je disk
    mov $0x604, %dx
    mov $0x2000, %bx
    cmp $'p', %al
    je word
    mov $0x2400, %bx
    cmp $'s', %al
    je word
    mov $0xcf9, %dx
    mov $6, %bl
    cmp $'r', %al
    je byte
    mov $0x505, %dx
    mov $1, %bl
    cmp $'P', %al
    je byte
    mov $0x443, %dx
    mov $15, %bl
    cmp $'w', %al
    je byte
    jmp next
word:
    mov %bx, %ax
    outw %ax, %dx
    jmp next
byte:
    mov %bl, %al
    outb %al, %dx
    jmp next
disk:
    mov $0x0201, %ax
    mov $0x000a, %cx
    mov $0x0080, %dx
    mov $0x7e00, %bx
    int $0x13
    jmp next
